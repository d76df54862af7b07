import torch

# The thread pools of torch and of the simulator slow each other down on few cores.
torch.set_num_threads(1)
