"""What backends on GPUs share: kernels in one C, and the host side over a small driver.

`kernels/` holds the sources; a prelude of each language says what their names mean there. `GPUDevice` keeps the
contract of `llamakit.backend` over a `Driver`, of which a plugin brings one: memory, modules, launches and copies.
"""
