"""Scores and input gradients of a critic of known calls as one node of autograd.

``recording`` makes the record of a forward pass, ``functions`` lists what it may call, ``calls``, ``products`` and
``activations`` have the passes through each call, and ``node`` the mathematics.
"""
