"""The functions of libgnutls, one for one."""
