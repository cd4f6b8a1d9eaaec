//! Stored models: graphs, weights, manifest, card.
