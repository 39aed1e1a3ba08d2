package registry

import (
	"context"
	"fmt"
	"strings"

	"berth/storage/metadata"

	"github.com/opencontainers/go-digest"
)

// checkQuota fails with ErrDenied when so many bytes, of the blob d when that is known, can't be added to a repository: there is no use in
// sending them. With a size of 0, or of less when it is not known, that is when a quota has no room left.
func (s *Service) checkQuota(ctx context.Context, repository string, size int64, d digest.Digest) error {
	return explain(s.facts.CheckQuota(ctx, repository, max(size, 0), d), nil, "check the quota of %s", repository)
}

// quotaDetail is what a program is told of a quota that is exceeded. Bytes and Tags are the limits, zero for none.
type quotaDetail struct {
	Repositories []string `json:"repositories"`
	Bytes        int64    `json:"bytes,omitempty"`
	UsedBytes    int64    `json:"usedBytes"`
	Tags         int64    `json:"tags,omitempty"`
	UsedTags     int64    `json:"usedTags"`
}

// explainQuota tells a client of the quota that it would exceed, and what makes room.
func explainQuota(e *metadata.QuotaError) error {
	detail := quotaDetail{Repositories: e.Repositories, Bytes: e.Bytes, UsedBytes: e.UsedBytes, Tags: e.Tags, UsedTags: e.UsedTags}
	names := strings.Join(e.Repositories, ", ")
	if e.Tags > 0 && e.AddedTags > 0 && e.UsedTags+e.AddedTags > e.Tags {
		return ErrDenied.Withf("the quota for %s is %d tags, and %d are used: delete tags that nobody needs, or move one of them", names, e.Tags, e.UsedTags).
			Detailed(detail)
	}
	added := ""
	if e.AddedBytes > 0 {
		added = fmt.Sprintf(", too many to add %s", BytesText(e.AddedBytes))
	}
	return ErrDenied.Withf("the quota for %s is %s, and %s are used%s: delete images that nobody needs; they count until they have left the trash and "+
		"are collected (whoever runs the registry sees what there is with registry usage)", names, BytesText(e.Bytes), BytesText(e.UsedBytes), added).Detailed(detail)
}

// BytesText returns n bytes for people: "3.2 GiB".
func BytesText(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n)/1024, 0
	for value >= 1024 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	return fmt.Sprintf("%.1f %ciB", value, units[unit])
}
