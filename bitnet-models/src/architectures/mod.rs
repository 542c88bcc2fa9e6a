//! Model families: which decoder a configuration describes.
