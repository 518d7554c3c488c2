"Looking at a Guest's life: recordings, time travel, films. Knows `launcher`."
