-- The facts of the registry. Times are milliseconds since 1970, digests one byte of algorithm and the raw hash.
-- {id}, {int}, {bytes}, {text}, {strict} and {rowless} stand for what a dialect calls them.

CREATE TABLE repositories (
  id         {id},
  name       {text} NOT NULL UNIQUE,
  created_at {int} NOT NULL
) {strict};

-- A blob is bytes under one key. os, architecture, variant and created are those of an image config, else null.
CREATE TABLE blobs (
  digest       {bytes} NOT NULL PRIMARY KEY,
  key          {text} NOT NULL UNIQUE,
  size         {int} NOT NULL,
  os           {text},
  architecture {text},
  variant      {text},
  created      {int},
  stored_at    {int} NOT NULL
) {rowless};

-- The link that makes a blob visible in a repository. Until leased_until it stays even when nothing references it.
CREATE TABLE repository_blobs (
  repository   {int} NOT NULL REFERENCES repositories (id),
  digest       {bytes} NOT NULL REFERENCES blobs (digest) ON DELETE RESTRICT,
  leased_until {int} NOT NULL,
  PRIMARY KEY (repository, digest)
) {rowless};
CREATE INDEX repository_blobs_digest ON repository_blobs (digest);

CREATE TABLE manifests (
  id             {id},
  repository     {int} NOT NULL REFERENCES repositories (id),
  digest         {bytes} NOT NULL,
  media_type     {text} NOT NULL,
  artifact_type  {text} NOT NULL,
  subject        {bytes},
  config_digest  {bytes},
  os             {text},
  architecture   {text},
  variant        {text},
  size           {int} NOT NULL,
  total_size     {int} NOT NULL,
  annotations    {text},
  created        {int},
  pushed_at      {int} NOT NULL,
  pushed_by      {text} NOT NULL,
  last_pulled_at {int},
  deleted_at     {int},
  UNIQUE (repository, digest)
) {strict};
CREATE INDEX manifests_subject ON manifests (repository, subject, digest) WHERE subject IS NOT NULL;

CREATE TABLE manifest_bodies (
  manifest {int} NOT NULL PRIMARY KEY REFERENCES manifests (id) ON DELETE CASCADE,
  body     {bytes} NOT NULL
) {strict};

-- What a manifest references, one row a descriptor. linked is the digest again once the repository has the blob: then
-- the foreign key holds the blob, and until then the row waits for it.
CREATE TABLE manifest_blobs (
  manifest   {int} NOT NULL REFERENCES manifests (id) ON DELETE CASCADE,
  position   {int} NOT NULL,
  repository {int} NOT NULL,
  digest     {bytes} NOT NULL,
  linked     {bytes},
  size       {int} NOT NULL,
  media_type {text} NOT NULL,
  PRIMARY KEY (manifest, position),
  FOREIGN KEY (repository, linked) REFERENCES repository_blobs (repository, digest) ON DELETE RESTRICT
) {rowless};
CREATE INDEX manifest_blobs_linked ON manifest_blobs (repository, linked) WHERE linked IS NOT NULL;
CREATE INDEX manifest_blobs_waiting ON manifest_blobs (repository, digest) WHERE linked IS NULL;

CREATE TABLE manifest_children (
  manifest     {int} NOT NULL REFERENCES manifests (id) ON DELETE CASCADE,
  position     {int} NOT NULL,
  repository   {int} NOT NULL,
  digest       {bytes} NOT NULL,
  child        {int} REFERENCES manifests (id) ON DELETE RESTRICT,
  size         {int} NOT NULL,
  media_type   {text} NOT NULL,
  os           {text},
  architecture {text},
  variant      {text},
  PRIMARY KEY (manifest, position)
) {rowless};
CREATE INDEX manifest_children_child ON manifest_children (child) WHERE child IS NOT NULL;
CREATE INDEX manifest_children_waiting ON manifest_children (repository, digest) WHERE child IS NULL;

CREATE TABLE tags (
  repository {int} NOT NULL REFERENCES repositories (id),
  name       {text} NOT NULL,
  manifest   {int} NOT NULL REFERENCES manifests (id) ON DELETE RESTRICT,
  updated_at {int} NOT NULL,
  updated_by {text} NOT NULL,
  PRIMARY KEY (repository, name)
) {rowless};
CREATE INDEX tags_manifest ON tags (manifest);

-- An upload session. Every claim raises epoch, and a result is recorded only where the epoch is still the claim's own.
-- A finished session has committed and no key; it stays until expires_at so that a repeated PUT finds it.
CREATE TABLE uploads (
  id            {text} NOT NULL PRIMARY KEY,
  repository    {int} NOT NULL REFERENCES repositories (id),
  epoch         {int} NOT NULL,
  key           {text} UNIQUE,
  size          {int} NOT NULL,
  state         {bytes},
  algorithm     {text} NOT NULL,
  hash_state    {bytes},
  config        {bytes},
  pinned_digest {bytes} REFERENCES blobs (digest) ON DELETE RESTRICT,
  committed     {bytes},
  started_at    {int} NOT NULL,
  expires_at    {int} NOT NULL
) {rowless};
CREATE INDEX uploads_expires_at ON uploads (expires_at);
CREATE INDEX uploads_pinned ON uploads (pinned_digest) WHERE pinned_digest IS NOT NULL;

-- Keys whose bytes may be deleted from delete_after on.
CREATE TABLE dead_keys (
  key          {text} NOT NULL PRIMARY KEY,
  delete_after {int} NOT NULL
) {rowless};
CREATE INDEX dead_keys_delete_after ON dead_keys (delete_after);

-- Key prefixes of server starts. One that was not closed may have bytes that no row knows.
CREATE TABLE generations (
  prefix    {text} NOT NULL PRIMARY KEY,
  opened_at {int} NOT NULL,
  closed_at {int}
) {rowless};

-- Links that no manifest may reference any more. Whoever creates a link, extends its lease or drops a reference raises
-- version, and the collector removes a row only at the version that it looked at.
CREATE TABLE gc_queue (
  repository   {int} NOT NULL,
  digest       {bytes} NOT NULL,
  review_after {int} NOT NULL,
  version      {int} NOT NULL,
  PRIMARY KEY (repository, digest)
) {rowless};
CREATE INDEX gc_queue_review_after ON gc_queue (review_after);

-- Facts about the registry itself.
CREATE TABLE settings (
  name  {text} NOT NULL PRIMARY KEY,
  value {bytes} NOT NULL
) {rowless};
