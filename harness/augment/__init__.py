"""Augmentation: the operations, the policies' engine, and the store of augmented epochs."""
