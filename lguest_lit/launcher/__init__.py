"The program beside the Guest: the Launcher with its console and DMA bus, the Workbench for Guests of a few lines. Knows `host`."
