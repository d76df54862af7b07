"""What a policy is worth and what it looks like: episodes, scores, pictures, videos."""
