"""The engine over InfiniBand."""
