package api

import (
	"log/slog"
	"slices"
	"strings"

	"berth/registry"
	"berth/registry/manifest"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// noteMissing says in the log and the metrics that a client got an index without an image for its machine: the client's
// message reaches only who sits in front of it, and in a swarm that is nobody. Only clients that name their machine are
// known to miss something. One that wants another platform than its own is taken for one that misses.
func (h *handler) noteMissing(c *call, index registry.Manifest) {
	platform, ok := clientPlatform(c.r.UserAgent())
	if !ok {
		return
	}
	m, err := manifest.Parse(index.MediaType, index.Body)
	if err != nil || slices.ContainsFunc(m.Children, func(d v1.Descriptor) bool { return mayRun(platform, d) }) {
		return
	}
	h.meters.platformMissing(c.repository, platform.String())
	// Clients ask for a tag with HEAD and then for the digest, and people know the tag.
	tags, _ := h.Service.TagsOf(c.r.Context(), c.repository, index.Digest) // without them the digest says it
	h.Log.LogAttrs(c.r.Context(), slog.LevelWarn, "platform missing", slog.String("repository", c.repository),
		slog.String("tags", strings.Join(tags, " ")), slog.String("digest", index.Digest.String()), slog.String("platform", platform.String()),
		slog.String("remote", h.remote(c.r)), slog.String("request", c.id))
}

// clientPlatform reads what dockerd says of its machine in the User-Agent header: "os/linux arch/arm" among other words. There is
// no variant.
func clientPlatform(agent string) (p manifest.Platform, ok bool) {
	for word := range strings.FieldsSeq(agent) {
		name, value, _ := strings.Cut(word, "/")
		switch {
		case strings.HasPrefix(word, "("), strings.HasPrefix(word, "UpstreamClient("):
			return p, p.OS != "" && p.Architecture != "" // what follows is about a client of the client
		case name == "os" && isWord(value):
			p.OS = value
		case name == "arch" && isWord(value):
			p.Architecture = value
		}
	}
	return p, p.OS != "" && p.Architecture != ""
}

// isWord reports whether s can be what Go calls an operating system or an architecture.
func isWord(s string) bool {
	return s != "" && len(s) <= 16 && !strings.ContainsFunc(s, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') })
}

// mayRun reports whether a client's machine may run what an index lists: for want of a variant, one of any.
func mayRun(client manifest.Platform, d v1.Descriptor) bool {
	if !manifest.IsManifest(d.MediaType) {
		return true // a build cache is not for any machine
	}
	p, ok := manifest.PlatformOf(d)
	if !ok {
		return d.Platform == nil // it may be for any
	}
	return p.OS == client.OS && slices.Contains(alsoRuns(client.Architecture), p.Architecture)
}

// alsoRuns are the architectures whose images docker takes on a machine.
func alsoRuns(architecture string) []string {
	switch architecture {
	case "amd64":
		return []string{"amd64", "386"}
	case "arm64":
		return []string{"arm64", "arm"}
	}
	return []string{architecture}
}
