"""The least that a run can learn: for tests of anything else, which are fast this way."""

ONCE = ("algo.epochs=1", "algo.critic_epochs=1", "algo.num_minibatches=1")
"""One gradient step of every policy, and of the critic, an iteration; the recipe takes twenty."""
