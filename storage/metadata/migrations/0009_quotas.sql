-- A limit for what the repositories that match some patterns hold together. What they use is used_bytes and used_tags, and what
-- quota_changes adds to that: who takes something away waits for nobody.
CREATE TABLE quotas (
  id           {id},
  repositories {text} NOT NULL UNIQUE,
  bytes        {int} NOT NULL,
  tags         {int} NOT NULL,
  used_bytes   {int} NOT NULL,
  used_tags    {int} NOT NULL
) {strict};

CREATE TABLE quota_repositories (
  repository {int} NOT NULL,
  quota      {int} NOT NULL,
  PRIMARY KEY (repository, quota)
) {rowless};
CREATE INDEX quota_repositories_quota ON quota_repositories (quota);

-- The blobs of these repositories, each once. links is in how many of them it is.
CREATE TABLE quota_blobs (
  quota  {int} NOT NULL,
  digest {bytes} NOT NULL,
  size   {int} NOT NULL,
  links  {int} NOT NULL,
  PRIMARY KEY (quota, digest)
) {rowless};

CREATE TABLE quota_changes (
  id    {id},
  quota {int} NOT NULL,
  bytes {int} NOT NULL,
  tags  {int} NOT NULL
) {strict};
CREATE INDEX quota_changes_quota ON quota_changes (quota, id);
