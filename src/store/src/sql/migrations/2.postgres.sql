-- What agents keep: one row per document. Only its owner's module reads `body`.
CREATE TABLE tollway_documents (
    collection TEXT COLLATE "C" NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    owner TEXT COLLATE "C" NOT NULL,
    parent TEXT COLLATE "C",
    state TEXT COLLATE "C" NOT NULL,
    created_ms BIGINT NOT NULL,
    expires_ms BIGINT,
    holder TEXT COLLATE "C",
    held_until_ms BIGINT NOT NULL,
    size BIGINT NOT NULL,
    version BIGINT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (collection, id)
);
CREATE INDEX tollway_documents_owner ON tollway_documents (collection, owner, created_ms, id);
CREATE INDEX tollway_documents_parent ON tollway_documents (collection, parent, created_ms, id)
    WHERE parent IS NOT NULL;
CREATE INDEX tollway_documents_state ON tollway_documents (collection, state, held_until_ms);
CREATE INDEX tollway_documents_expires ON tollway_documents (collection, expires_ms)
    WHERE expires_ms IS NOT NULL;

-- The logs of documents, numbered from 0 without gaps. `ends_at`: the bytes of this entry and of
-- all before it, by which a reader knows how many fit without reading them.
CREATE TABLE tollway_log (
    collection TEXT COLLATE "C" NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    n BIGINT NOT NULL,
    ends_at BIGINT NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (collection, id, n)
);
