"""Augmentation of training images, ahead of training, and of test images."""
