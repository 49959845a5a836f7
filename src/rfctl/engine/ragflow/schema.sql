-- Everything durable of the embedded RAG server. Times are milliseconds since 1970; columns ending in
-- _json hold JSON text; ids are 32 lower-case hex digits (chunks: 16).

CREATE TABLE tenant (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  create_time INTEGER NOT NULL
);

CREATE TABLE token (
  token TEXT PRIMARY KEY,
  beta TEXT NOT NULL,
  create_time INTEGER NOT NULL,
  update_time INTEGER NOT NULL
);

CREATE TABLE provider (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  create_time INTEGER NOT NULL
);

-- base_url '' means the engine itself, whatever port it got this time
CREATE TABLE instance (
  id TEXT PRIMARY KEY,
  provider_id TEXT NOT NULL REFERENCES provider(id) ON DELETE CASCADE,
  name TEXT NOT NULL,
  api_key TEXT NOT NULL DEFAULT '',
  base_url TEXT NOT NULL DEFAULT '',
  region TEXT NOT NULL DEFAULT '',
  status TEXT NOT NULL DEFAULT 'active',
  create_time INTEGER NOT NULL,
  UNIQUE (provider_id, name)
);

-- live 1: found by listing the server, not registered by a client; present 0: no longer listed
CREATE TABLE model (
  id TEXT PRIMARY KEY,
  instance_id TEXT NOT NULL REFERENCES instance(id) ON DELETE CASCADE,
  name TEXT NOT NULL,
  model_type_json TEXT NOT NULL,
  max_tokens INTEGER NOT NULL DEFAULT 0,
  extra_json TEXT NOT NULL DEFAULT '{}',
  status TEXT NOT NULL DEFAULT 'active',
  verify TEXT NOT NULL DEFAULT 'unknown',
  live INTEGER NOT NULL DEFAULT 0,
  present INTEGER NOT NULL DEFAULT 1,
  digest TEXT NOT NULL DEFAULT '',
  create_time INTEGER NOT NULL,
  UNIQUE (instance_id, name)
);

CREATE TABLE default_model (
  model_type TEXT PRIMARY KEY,
  model_id TEXT NOT NULL REFERENCES model(id) ON DELETE CASCADE
);

-- revision grows with every change of the dataset's chunks, so that an index in memory knows it is old
CREATE TABLE dataset (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  avatar TEXT,
  description TEXT,
  language TEXT NOT NULL DEFAULT 'English',
  embedding_model TEXT NOT NULL DEFAULT '',
  embedding_model_id TEXT,
  permission TEXT NOT NULL DEFAULT 'me',
  chunk_method TEXT NOT NULL DEFAULT 'naive',
  parser_config_json TEXT NOT NULL,
  pipeline_id TEXT,
  pagerank INTEGER NOT NULL DEFAULT 0,
  chunk_count INTEGER NOT NULL DEFAULT 0,
  token_count INTEGER NOT NULL DEFAULT 0,
  revision INTEGER NOT NULL DEFAULT 0,
  create_time INTEGER NOT NULL,
  update_time INTEGER NOT NULL
);

-- The file of a document is <data_dir>/document/<id>. run: UNSTART RUNNING CANCEL DONE FAIL.
-- generation grows with every start and stop: a worker that holds an older one may write nothing more.
CREATE TABLE document (
  id TEXT PRIMARY KEY,
  dataset_id TEXT NOT NULL REFERENCES dataset(id) ON DELETE CASCADE,
  name TEXT NOT NULL,
  location TEXT NOT NULL,
  size INTEGER NOT NULL,
  type TEXT NOT NULL,
  suffix TEXT NOT NULL,
  source_type TEXT NOT NULL DEFAULT 'local',
  content_hash TEXT NOT NULL,
  chunk_method TEXT NOT NULL,
  parser_config_json TEXT NOT NULL,
  meta_fields_json TEXT NOT NULL DEFAULT '{}',
  pipeline_id TEXT,
  enabled INTEGER NOT NULL DEFAULT 1,
  run TEXT NOT NULL DEFAULT 'UNSTART',
  generation INTEGER NOT NULL DEFAULT 0,
  progress REAL NOT NULL DEFAULT 0,
  progress_msg TEXT NOT NULL DEFAULT '',
  process_begin_at INTEGER,
  process_duration REAL NOT NULL DEFAULT 0,
  chunk_count INTEGER NOT NULL DEFAULT 0,
  token_count INTEGER NOT NULL DEFAULT 0,
  create_time INTEGER NOT NULL,
  update_time INTEGER NOT NULL
);
CREATE INDEX document_dataset ON document (dataset_id, create_time);

-- One row for each document that waits or is being parsed; it goes with the state that ends the run.
CREATE TABLE task (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  document_id TEXT NOT NULL UNIQUE REFERENCES document(id) ON DELETE CASCADE,
  generation INTEGER NOT NULL,
  attempt INTEGER NOT NULL DEFAULT 0,
  create_time INTEGER NOT NULL
);

-- positions_json: [[page, x0, x1, top, bottom], ...], page 1-based, in PDF points from the top left.
-- tokens: the words of the chunk as the full-text index sees them, separated by blanks.
CREATE TABLE chunk (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  document_id TEXT NOT NULL REFERENCES document(id) ON DELETE CASCADE,
  dataset_id TEXT NOT NULL REFERENCES dataset(id) ON DELETE CASCADE,
  content TEXT NOT NULL,
  tokens TEXT NOT NULL DEFAULT '',
  token_count INTEGER NOT NULL DEFAULT 0,
  page INTEGER NOT NULL DEFAULT 0,
  top INTEGER NOT NULL DEFAULT 0,
  positions_json TEXT NOT NULL DEFAULT '[]',
  important_keywords_json TEXT NOT NULL DEFAULT '[]',
  questions_json TEXT NOT NULL DEFAULT '[]',
  tags_json TEXT NOT NULL DEFAULT '[]',
  tag_feas_json TEXT NOT NULL DEFAULT '{}',
  image_id TEXT NOT NULL DEFAULT '',
  available INTEGER NOT NULL DEFAULT 1,
  create_time INTEGER NOT NULL,
  create_timestamp REAL NOT NULL
);
CREATE INDEX chunk_document ON chunk (document_id);
CREATE INDEX chunk_dataset ON chunk (dataset_id);
CREATE INDEX chunk_hidden ON chunk (dataset_id) WHERE available = 0;

-- data: dimension float32 numbers, little-endian, as the embedding model gave them
CREATE TABLE vector (
  chunk_seq INTEGER PRIMARY KEY REFERENCES chunk(seq) ON DELETE CASCADE,
  dataset_id TEXT NOT NULL,
  dimension INTEGER NOT NULL,
  data BLOB NOT NULL
);
CREATE INDEX vector_dataset ON vector (dataset_id);

CREATE VIRTUAL TABLE chunk_text USING fts5 (tokens, content='chunk', content_rowid='seq', tokenize="unicode61");
CREATE TRIGGER chunk_text_insert AFTER INSERT ON chunk BEGIN
  INSERT INTO chunk_text (rowid, tokens) VALUES (new.seq, new.tokens);
END;
CREATE TRIGGER chunk_text_delete AFTER DELETE ON chunk BEGIN
  INSERT INTO chunk_text (chunk_text, rowid, tokens) VALUES ('delete', old.seq, old.tokens);
END;
CREATE TRIGGER chunk_text_update AFTER UPDATE OF tokens ON chunk BEGIN
  INSERT INTO chunk_text (chunk_text, rowid, tokens) VALUES ('delete', old.seq, old.tokens);
  INSERT INTO chunk_text (rowid, tokens) VALUES (new.seq, new.tokens);
END;

CREATE TABLE chat (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  icon TEXT NOT NULL DEFAULT '',
  description TEXT,
  dataset_ids_json TEXT NOT NULL DEFAULT '[]',
  llm_id TEXT NOT NULL DEFAULT '',
  llm_setting_json TEXT NOT NULL DEFAULT '{}',
  prompt_config_json TEXT NOT NULL DEFAULT '{}',
  meta_data_filter_json TEXT NOT NULL DEFAULT '{}',
  similarity_threshold REAL NOT NULL DEFAULT 0.1,
  vector_similarity_weight REAL NOT NULL DEFAULT 0.3,
  top_n INTEGER NOT NULL DEFAULT 6,
  top_k INTEGER NOT NULL DEFAULT 1024,
  rerank_id TEXT NOT NULL DEFAULT '',
  extra_json TEXT NOT NULL DEFAULT '{}',
  create_time INTEGER NOT NULL,
  update_time INTEGER NOT NULL
);

CREATE TABLE session (
  id TEXT PRIMARY KEY,
  chat_id TEXT NOT NULL REFERENCES chat(id) ON DELETE CASCADE,
  name TEXT NOT NULL,
  user_id TEXT NOT NULL DEFAULT '',
  messages_json TEXT NOT NULL DEFAULT '[]',
  references_json TEXT NOT NULL DEFAULT '[]',
  create_time INTEGER NOT NULL,
  update_time INTEGER NOT NULL
);
CREATE INDEX session_chat ON session (chat_id, create_time);
