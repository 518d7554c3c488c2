"The processor: memory, descriptors, paging, traps, and the engine under them. Knows nobody."
