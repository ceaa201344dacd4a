"""The accountants, each in a module of its own: their libraries take seconds to import, and few runs need them all."""
