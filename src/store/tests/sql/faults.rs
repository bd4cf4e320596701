//! What can go wrong with one of the databases.
