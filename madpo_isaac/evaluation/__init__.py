"""Evaluation of policies: episodes, scores, pictures, videos."""
