"""The networks around the UNet in plain torch: built in a moment, with the parameters' names of the usual files."""
