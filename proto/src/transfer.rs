//! Uploads and downloads that resume.
