# rl_games has no type information: what madpo_isaac uses of it is Any.
