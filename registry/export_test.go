package registry

// SessionUsers returns how many requests have an upload or wait for it.
func (s *Service) SessionUsers(repository, id string) int {
	s.sessions.mu.Lock()
	defer s.sessions.mu.Unlock()
	if one := s.sessions.byID[sessionKey(repository, id)]; one != nil {
		return one.users
	}
	return 0
}

// MatchTag and TagsOf are what assembly reads tags with.
var (
	MatchTag = matchTag
	TagsOf   = tagsOf
)

// MaxPart is the size up to which manifests are taken into indexes.
const MaxPart = maxPart

// PendingUploads returns how many uploads are pending.
func (s *Service) PendingUploads() int {
	s.pending.mu.Lock()
	defer s.pending.mu.Unlock()
	return len(s.pending.byKey)
}
