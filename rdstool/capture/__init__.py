"""Files to frames, frames to streams, streams to RDS messages, in bounded columns."""
