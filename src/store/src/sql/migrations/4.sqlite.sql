-- What the Responses API keeps: a response, the items that went into it, and its events where a client
-- may come back for them. One that is still being made names the node and the process that make it,
-- and until when they hold it.
CREATE TABLE tollway_responses (
    id TEXT PRIMARY KEY,
    tenant TEXT NOT NULL,
    deployment TEXT,
    original_deployment TEXT,
    original_id TEXT,
    expires_ms INTEGER NOT NULL,
    node TEXT,
    process TEXT,
    held_until_ms INTEGER NOT NULL,
    is_cancelled INTEGER NOT NULL,
    response TEXT NOT NULL,
    items TEXT NOT NULL,
    events TEXT
) STRICT;
CREATE INDEX tollway_responses_expires ON tollway_responses (expires_ms);
CREATE INDEX tollway_responses_process ON tollway_responses (process) WHERE process IS NOT NULL;
