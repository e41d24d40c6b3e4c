"""What goes out: sinks with one transaction per epoch, dead letters, the publisher of data sets."""
