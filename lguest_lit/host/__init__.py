"The hypervisor, by the files of drivers/lguest, H:000 to H:610; with the kernel that it is a module of, the clock, and /dev/lguest. Knows `i386` and `images`."
