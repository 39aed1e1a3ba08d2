-- Robots are accounts of machines: what they may do was said when they were made. Their secrets are kept as SHA-256.
-- repositories is a JSON list of patterns, actions a list with commas.
CREATE TABLE robots (
  id           {text} NOT NULL PRIMARY KEY,
  name         {text} NOT NULL UNIQUE,
  secret_hash  {bytes} NOT NULL UNIQUE,
  repositories {text} NOT NULL,
  actions      {text} NOT NULL,
  created_at   {int} NOT NULL,
  expires_at   {int},
  last_used_at {int}
) {rowless};
