-- What agents keep: one row per document. Only its owner's module reads `body`.
CREATE TABLE tollway_documents (
    collection TEXT NOT NULL,
    id TEXT NOT NULL,
    owner TEXT NOT NULL,
    parent TEXT,
    state TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER,
    holder TEXT,
    held_until_ms INTEGER NOT NULL,
    size INTEGER NOT NULL,
    version INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (collection, id)
) STRICT;
CREATE INDEX tollway_documents_owner ON tollway_documents (collection, owner, created_ms, id);
CREATE INDEX tollway_documents_parent ON tollway_documents (collection, parent, created_ms, id)
    WHERE parent IS NOT NULL;
CREATE INDEX tollway_documents_state ON tollway_documents (collection, state, held_until_ms);
CREATE INDEX tollway_documents_expires ON tollway_documents (collection, expires_ms)
    WHERE expires_ms IS NOT NULL;

-- The logs of documents, numbered from 0 without gaps. `ends_at`: the bytes of this entry and of
-- all before it, by which a reader knows how many fit without reading them.
CREATE TABLE tollway_log (
    collection TEXT NOT NULL,
    id TEXT NOT NULL,
    n INTEGER NOT NULL,
    ends_at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (collection, id, n)
) STRICT;
