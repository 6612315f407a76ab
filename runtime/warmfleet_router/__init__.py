"""The router: takes requests for all models, holds them while a model wakes, picks an engine and passes bytes on."""
