//! The store: the tree of images and every verb on it.
