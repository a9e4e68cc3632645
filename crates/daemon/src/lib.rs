//! HTTP: the Docker Engine API and Ireko's own, over the engine.
