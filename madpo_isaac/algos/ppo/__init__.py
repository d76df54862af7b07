"""Single-agent PPO over the joint action, learned by the library rl_games (package rl-games).

Nothing here is imported before ``algo=ppo`` is asked for.
"""
