"""The processes that run on separate machines, over the folders of ``fedtrain.machines``."""
