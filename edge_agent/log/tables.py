"""The tables and views as their migrations (`schema`) first made them, in SQL."""

LOG = """
CREATE TABLE arrival (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,  -- 1, 2, 3, … without gaps
    query_id TEXT NOT NULL UNIQUE,
    at REAL NOT NULL,                       -- Unix seconds
    logged INTEGER                          -- NULL until the query has ended
);
CREATE TABLE query (
    seq INTEGER PRIMARY KEY REFERENCES arrival (seq),
    id TEXT NOT NULL UNIQUE,    -- ULID; gen_ai.response.id is chatcmpl- or cmpl- and this
    at REAL NOT NULL,           -- Unix seconds
    kind TEXT NOT NULL,         -- chat | completion; gen_ai.operation.name
    model TEXT NOT NULL,        -- as the client sent it; gen_ai.request.model
    client TEXT NOT NULL,
    task TEXT,                  -- the client's label for the kind of work
    route TEXT NOT NULL,        -- what the client asked for: auto | local | cloud
    private INTEGER NOT NULL,
    prompt TEXT,                -- last user message, or the completion's prompt
    messages TEXT,              -- JSON, as sent
    tools TEXT,                 -- JSON
    request TEXT NOT NULL,      -- JSON: the other fields of the body
    sampling TEXT NOT NULL,     -- JSON: the sampling parameters that are not default
    n INTEGER NOT NULL,
    reference TEXT,             -- the right answer, where the client sent it
    grader TEXT,                -- JSON
    template TEXT NOT NULL,     -- digest of the chat template that rendered prompt_ids
    prompt_ids BLOB NOT NULL    -- token ids as served, packed (edge_agent/log/rows.py)
);
CREATE INDEX query_at ON query (at);
CREATE INDEX query_task ON query (task, seq);

CREATE TABLE decision (
    seq INTEGER PRIMARY KEY REFERENCES query (seq) ON DELETE CASCADE,
    route TEXT NOT NULL,        -- local | cloud
    reason TEXT NOT NULL,
    wanted TEXT,                -- what the policy wanted, where that is not `route`
    p_offload REAL,
    p_first REAL,
    threshold REAL,
    propensity REAL NOT NULL,   -- probability of this route under the policy
    adapter TEXT NOT NULL,      -- version that decided, and answered where the source is local
    dual REAL,                  -- λ of that adapter
    budget TEXT NOT NULL,       -- JSON: limit → {limit, used}
    audit INTEGER NOT NULL
);
CREATE INDEX decision_adapter ON decision (adapter, seq);

CREATE TABLE response (
    seq INTEGER PRIMARY KEY REFERENCES query (seq) ON DELETE CASCADE,
    source TEXT NOT NULL,       -- local | cloud | fallback
    cloud_model TEXT,           -- gen_ai.response.model of a cloud answer
    prompt_tokens INTEGER NOT NULL,      -- gen_ai.usage.input_tokens
    completion_tokens INTEGER NOT NULL,  -- gen_ai.usage.output_tokens
    cached_tokens INTEGER NOT NULL,      -- gen_ai.usage.cache_read.input_tokens
    cloud_prompt_tokens INTEGER,         -- what the cloud counted; NULL: it said nothing
    cloud_completion_tokens INTEGER,
    cloud_cached_tokens INTEGER,
    cost_usd REAL,              -- NULL: the price is not known
    ttft_s REAL,                -- to the first non-empty token, in seconds
    duration_s REAL NOT NULL,
    error TEXT,                 -- why the answer is missing or cut; for fallback, the cloud's error
    disconnected INTEGER NOT NULL
);

CREATE TABLE choice (
    id INTEGER PRIMARY KEY,
    seq INTEGER NOT NULL REFERENCES query (seq) ON DELETE CASCADE,
    number INTEGER NOT NULL,    -- 0, 1, … n−1
    text TEXT NOT NULL,
    finish_reason TEXT,         -- gen_ai.response.finish_reasons; NULL: it did not end
    tool_calls TEXT,            -- JSON
    token_ids BLOB              -- sampled ids, packed; NULL for a cloud answer
);
CREATE UNIQUE INDEX choice_of ON choice (seq, number);

CREATE TABLE feedback (
    id INTEGER PRIMARY KEY,
    query_id TEXT NOT NULL REFERENCES query (id) ON DELETE CASCADE,
    at REAL NOT NULL,
    rating REAL,                -- in [−1, 1]
    correction TEXT,
    reference TEXT,
    comment TEXT
);
CREATE INDEX feedback_of ON feedback (query_id);

CREATE TABLE audit (            -- the cloud's answer to a query that was answered locally
    id INTEGER PRIMARY KEY,
    query_id TEXT NOT NULL,     -- may be written before its query is
    at REAL NOT NULL,
    cloud_model TEXT NOT NULL,
    text TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    cost_usd REAL,
    error TEXT
);
CREATE INDEX audit_of ON audit (query_id);
CREATE TRIGGER audit_with_query AFTER DELETE ON query BEGIN
    DELETE FROM audit WHERE query_id = old.id;
END;

CREATE VIEW log AS
SELECT
    query.seq,
    query.id,
    strftime('%Y-%m-%d %H:%M:%S', query.at, 'unixepoch') AS time_utc,
    query.task,
    substr(query.prompt, 1, 200) AS prompt,
    (SELECT substr(text, 1, 200) FROM choice WHERE choice.seq = query.seq AND number = 0) AS answer,
    decision.route,
    response.source,
    decision.reason,
    decision.p_offload,
    decision.threshold,
    decision.adapter,
    response.prompt_tokens,
    response.completion_tokens,
    response.ttft_s,
    response.duration_s,
    response.cost_usd,
    (SELECT rating FROM feedback WHERE query_id = query.id AND rating IS NOT NULL
     ORDER BY feedback.id DESC LIMIT 1) AS rating,
    query.private,
    response.error
FROM query
JOIN decision ON decision.seq = query.seq
JOIN response ON response.seq = query.seq;
"""

LEDGER = """
CREATE TABLE ledger (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    query_id TEXT NOT NULL,
    seq INTEGER NOT NULL,       -- place among all queries (arrival.seq), for the rate
    at REAL NOT NULL,           -- Unix seconds; never before the latest one in this table
    day TEXT NOT NULL,          -- local calendar day it is booked to, YYYY-MM-DD
    model TEXT NOT NULL,
    state TEXT NOT NULL,        -- reserved | settled | released | charged (its process died)
    calls INTEGER NOT NULL,     -- booked: the worst case while reserved, then the truth
    tokens INTEGER NOT NULL,
    nano_usd INTEGER,           -- 1e-9 USD, exact; NULL: the price is not known
    max_tokens INTEGER NOT NULL,
    pid INTEGER NOT NULL,       -- process that holds the reservation
    process_started REAL NOT NULL,  -- and its creation time: a pid can come back
    settled_at REAL
);
CREATE INDEX ledger_seq ON ledger (seq, calls);
CREATE INDEX ledger_at ON ledger (at);
CREATE INDEX ledger_query ON ledger (query_id);
CREATE INDEX ledger_open ON ledger (day) WHERE state = 'reserved';

CREATE TABLE budget_day (       -- sums of `ledger` by day, kept by the triggers below
    day TEXT PRIMARY KEY,
    calls INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    nano_usd INTEGER NOT NULL
);
CREATE TRIGGER ledger_booked AFTER INSERT ON ledger BEGIN
    INSERT INTO budget_day VALUES (new.day, new.calls, new.tokens, coalesce(new.nano_usd, 0))
    ON CONFLICT (day) DO UPDATE SET
        calls = calls + excluded.calls,
        tokens = tokens + excluded.tokens,
        nano_usd = nano_usd + excluded.nano_usd;
END;
CREATE TRIGGER ledger_rebooked AFTER UPDATE ON ledger BEGIN
    UPDATE budget_day SET
        calls = calls + new.calls - old.calls,
        tokens = tokens + new.tokens - old.tokens,
        nano_usd = nano_usd + coalesce(new.nano_usd, 0) - coalesce(old.nano_usd, 0)
    WHERE day = new.day;
END;

CREATE TABLE budget_limit (     -- what `edge-agent budget set` chose over the configuration
    name TEXT PRIMARY KEY,
    value REAL                  -- NULL: no limit
);
CREATE TABLE setting (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
"""

TRAINING = """
CREATE TABLE example (          -- not a query: never served, never counted for the budget
    id INTEGER PRIMARY KEY,
    at REAL NOT NULL,           -- Unix seconds of the import
    digest TEXT NOT NULL UNIQUE,    -- of messages and reference: importing twice adds nothing
    messages TEXT NOT NULL,     -- JSON, as in `query`
    task TEXT,
    reference TEXT NOT NULL,
    grader TEXT                 -- JSON
);
CREATE TABLE training_round (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    started_at REAL NOT NULL,   -- Unix seconds
    ended_at REAL,
    state TEXT NOT NULL,        -- running | interrupted | promoted | rejected | failed
    reason TEXT,                -- why it was rejected, or failed
    pid INTEGER NOT NULL,
    process_started REAL NOT NULL,
    last_seq INTEGER NOT NULL,  -- the newest query it saw (query.seq)
    last_example INTEGER NOT NULL,
    base TEXT NOT NULL,         -- name of the model
    parent TEXT NOT NULL,       -- adapter version it started from
    adapter TEXT,               -- version it made
    items INTEGER,              -- queries trained on
    held_out INTEGER,           -- queries kept for the gate
    settings TEXT NOT NULL,     -- JSON
    gate TEXT                   -- JSON: what the gate measured
);
CREATE TABLE training_step (
    id INTEGER PRIMARY KEY,
    round INTEGER NOT NULL REFERENCES training_round (id) ON DELETE CASCADE,
    step INTEGER NOT NULL,      -- 0, 1, … within its phase
    phase TEXT NOT NULL,        -- warm_start | dagrpo
    at REAL NOT NULL,
    seconds REAL NOT NULL,
    loss REAL,
    tokens INTEGER,             -- answer tokens trained on
    reward_local REAL,
    reward_offload REAL,
    p_offload REAL,             -- mean over the step's prompts
    rate REAL,                  -- J_c: what λ holds against τ
    dual REAL,                  -- λ after the step
    kl REAL,                    -- per token, to the promoted adapter
    entropy REAL,               -- of the decision, nats
    abs_delta_logp REAL,        -- mean |log π_torch − log μ_llama.cpp| per token
    effective_samples REAL,     -- share of the rollouts that the importance weights leave
    unanimous REAL,             -- share of groups that teach nothing
    grad_norm REAL
);
CREATE UNIQUE INDEX training_step_of ON training_step (round, phase, step);
"""

DRAFTS = """
ALTER TABLE decision ADD COLUMN gain REAL;          -- expected of asking, in units of reward
ALTER TABLE decision ADD COLUMN price REAL;         -- λ: what asking had to gain
ALTER TABLE decision ADD COLUMN decided_after TEXT; -- first_token | draft; NULL: not by a score
ALTER TABLE decision ADD COLUMN draft_logprob REAL; -- of the local draft, nats at temperature 1
ALTER TABLE decision ADD COLUMN draft TEXT;         -- its text, where another was served instead

DROP VIEW log;
CREATE VIEW log AS
SELECT
    query.seq,
    query.id,
    strftime('%Y-%m-%d %H:%M:%S', query.at, 'unixepoch') AS time_utc,
    query.task,
    substr(query.prompt, 1, 200) AS prompt,
    (SELECT substr(text, 1, 200) FROM choice WHERE choice.seq = query.seq AND number = 0) AS answer,
    decision.route,
    response.source,
    decision.reason,
    decision.p_offload,
    decision.threshold,
    decision.gain,
    decision.price,
    decision.decided_after,
    decision.draft_logprob,
    decision.adapter,
    response.prompt_tokens,
    response.completion_tokens,
    response.ttft_s,
    response.duration_s,
    response.cost_usd,
    (SELECT rating FROM feedback WHERE query_id = query.id AND rating IS NOT NULL
     ORDER BY feedback.id DESC LIMIT 1) AS rating,
    query.private,
    response.error
FROM query
JOIN decision ON decision.seq = query.seq
JOIN response ON response.seq = query.seq;
"""

CLOUD_LESSONS = """
CREATE TABLE refused_field (    -- learned from a cloud's refusal
    url TEXT NOT NULL,          -- base URL, without its query
    model TEXT NOT NULL,
    field TEXT NOT NULL,        -- dotted path in the request, e.g. temperature, messages.name
    instead TEXT,               -- the field that takes its place; NULL: it is left out
    day TEXT NOT NULL,          -- YYYY-MM-DD, UTC, of the refusal
    PRIMARY KEY (url, model, field)
);
CREATE TABLE overrun (          -- the most that a model's bill has passed its reservation by
    model TEXT PRIMARY KEY,
    at REAL NOT NULL,           -- Unix seconds of the latest
    tokens INTEGER NOT NULL,    -- of an answer, beyond its limit
    nano_usd INTEGER NOT NULL
);
"""

TOOL_TURN = """
CREATE TABLE tool_turn (        -- what a cloud said beside tool calls, for when results come
    call_id TEXT PRIMARY KEY,   -- of the tool call
    said TEXT NOT NULL,         -- JSON: reasoning and signatures, as the cloud gave them
    seq INTEGER NOT NULL REFERENCES query (seq) ON DELETE CASCADE
);
CREATE INDEX tool_turn_of ON tool_turn (seq);
"""
