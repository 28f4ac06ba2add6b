"""The diffusion core: noise schedule, encoding and decoding along the probability flow, ancestral sampling, guidance,
and the hybrid loss. Networks are in `medgen.nets.diffusion_unet`.

Noise levels are whole numbers t = 0..T: t = 0 is the image itself. What predicts the noise is any function
`noise(x, t)`: a network (`networks.NoiseNetwork`) or a formula, as in the tests.
"""
