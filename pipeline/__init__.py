"""The core of Headrace; start reading at `pipeline.step`."""
