"""Multi-agent MuJoCo: Gymnasium's robots, their joints divided among agents."""
