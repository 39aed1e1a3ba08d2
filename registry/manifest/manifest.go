// Package manifest reads image manifests, indexes, Docker schema 2 manifests and Docker manifest lists into one type.
//
// A document that Parse accepts means the same to every JSON parser: it is UTF-8, no object in it has a key twice, no
// key differs from one of the specification's only in case, its media type is the same wherever it is given, and it is
// either an image or an index, never both (CVE-2021-41190). Its digests are well formed.
//
// Parse does not check that what a document references exists, that sizes and embedded data are those of the digests, or
// that the body is small enough: the caller does. It keeps no bytes: fields that it does not know are allowed, and
// survive only in the body.
//
// What it refuses is an *Invalid; there is no other error.
package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"strings"
	"unicode/utf8"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// The media types that Docker gave its manifests before there was OCI.
const (
	MediaTypeDockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json"
)

// Invalid says why a document was refused.
type Invalid struct {
	// Message is for the one who pushed: what is wrong and, where there is one, the remedy.
	Message string
}

// Error returns the message.
func (e *Invalid) Error() string { return e.Message }

func invalid(format string, args ...any) *Invalid {
	return &Invalid{Message: fmt.Sprintf(format, args...)}
}

// Manifest is what a document says, whichever of the four forms it has.
type Manifest struct {
	// MediaType is the document's own: one of the two OCI and the two Docker types.
	MediaType string
	// ArtifactType is what a list of referrers shows: that of the document, else the media type of an image's config
	// (OCI distribution spec, "Listing Referrers"). It is empty for an index that has none.
	ArtifactType string
	// Subject is what the document is about, or nil.
	Subject *v1.Descriptor
	// Config is nil for an index.
	Config *v1.Descriptor
	// Blobs is the config and then the layers of an image, in order, with duplicates.
	Blobs []v1.Descriptor
	// Children is the manifests of an index, in order, with duplicates.
	Children []v1.Descriptor
	// Annotations is those of the document itself.
	Annotations map[string]string
}

// MaxReferences is how many blobs and manifests one manifest may reference: storing one takes time in proportion, in
// which other pushes wait.
const MaxReferences = 10_000

// IsIndex reports whether manifests of a media type list manifests rather than blobs.
func IsIndex(mediaType string) bool {
	return mediaType == v1.MediaTypeImageIndex || mediaType == MediaTypeDockerManifestList
}

// IsManifest reports whether a media type is that of one of the four forms.
func IsManifest(mediaType string) bool {
	return IsIndex(mediaType) || mediaType == v1.MediaTypeImageManifest || mediaType == MediaTypeDockerManifest
}

// IsImageConfig reports whether a config of a media type is that of an image that runs somewhere.
func IsImageConfig(mediaType string) bool {
	return mediaType == v1.MediaTypeImageConfig || mediaType == "application/vnd.docker.container.image.v1+json"
}

// document is all four forms at once. A list that is absent or null is nil.
type document struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType"`
	Subject       *v1.Descriptor    `json:"subject"`
	Config        *v1.Descriptor    `json:"config"`
	Layers        []v1.Descriptor   `json:"layers"`
	Manifests     []v1.Descriptor   `json:"manifests"`
	Annotations   map[string]string `json:"annotations"`
	FSLayers      json.RawMessage   `json:"fsLayers"` // Docker schema 1
}

// Parse reads and checks a document. The content type is what the client declared, with or without parameters; when it is
// empty the document's mediaType field decides, and without one its shape. It fails with an *Invalid.
func Parse(contentType string, body []byte) (Manifest, error) {
	declared, err := declaredType(contentType)
	if err != nil {
		return Manifest{}, err
	}
	doc, err := decode(body)
	if err != nil {
		return Manifest{}, err
	}
	mediaType, err := doc.resolveType(declared)
	if err != nil {
		return Manifest{}, err
	}
	if err := doc.check(IsIndex(mediaType)); err != nil {
		return Manifest{}, err
	}
	return doc.manifest(mediaType), nil
}

// declaredType reads a Content-Type header, which may be empty.
func declaredType(contentType string) (string, error) {
	if contentType == "" {
		return "", nil
	}
	mediaType, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return "", invalid("the Content-Type %q can't be read: %v", clip(contentType), err)
	}
	return mediaType, checkType(mediaType)
}

// checkType fails unless mediaType is one of those that Parse accepts.
func checkType(mediaType string) error {
	switch mediaType {
	case v1.MediaTypeImageManifest, v1.MediaTypeImageIndex, MediaTypeDockerManifest, MediaTypeDockerManifestList:
		return nil
	case "application/vnd.docker.distribution.manifest.v1+json", "application/vnd.docker.distribution.manifest.v1+prettyjws":
		return schema1()
	}
	known := []string{v1.MediaTypeImageManifest, v1.MediaTypeImageIndex, MediaTypeDockerManifest, MediaTypeDockerManifestList}
	return invalid("manifests of media type %q are not supported; supported are %s", clip(mediaType), strings.Join(known, ", "))
}

func schema1() error {
	return invalid("Docker schema 1 manifests are not supported: push the image again with Docker 1.10 or newer, " +
		"or convert it with: skopeo copy --format v2s2 docker://SOURCE docker://DESTINATION")
}

// decode reads body and makes sure that other parsers read the same.
func decode(body []byte) (*document, error) {
	if !utf8.Valid(body) {
		return nil, invalid("the manifest is not UTF-8")
	}
	if json.Valid(body) { // else Unmarshal says what is wrong
		if err := checkKeys(body); err != nil {
			return nil, err
		}
	}
	var doc document
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, describe(err)
	}
	return &doc, nil
}

// describe says what encoding/json found wrong without naming the types of this program.
func describe(err error) *Invalid {
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		if wrong.Field == "" {
			return invalid("the manifest is a JSON %s instead of an object", wrong.Value)
		}
		return invalid("the field %s of the manifest can't be a JSON %s", clip(wrong.Field), clip(wrong.Value))
	}
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return invalid("the manifest is no JSON document: %v after %d bytes", syntax, syntax.Offset)
	}
	return invalid("the manifest can't be read: %v", err)
}

// resolveType finds the media type of a document from what the client declared, its mediaType field and its shape (OCI
// image spec, "Guidelines for Distribution").
func (d *document) resolveType(declared string) (string, error) {
	if d.SchemaVersion == 1 || len(d.FSLayers) > 0 && string(d.FSLayers) != "null" {
		return "", schema1()
	}
	if d.SchemaVersion != 2 {
		return "", invalid("the field schemaVersion is %d, it has to be 2", d.SchemaVersion)
	}
	switch {
	case d.MediaType == "":
		return d.untypedAs(declared)
	case declared != "" && declared != d.MediaType:
		return "", invalid("the field mediaType is %q, but the Content-Type is %q", clip(d.MediaType), declared)
	}
	return d.MediaType, checkType(d.MediaType)
}

// untypedAs finds the media type of a document without a mediaType field, which OCI allows and Docker never did.
func (d *document) untypedAs(declared string) (string, error) {
	switch {
	case declared == MediaTypeDockerManifest || declared == MediaTypeDockerManifestList:
		return "", invalid("the field mediaType is missing, it has to be %q", declared)
	case declared != "":
		return declared, nil
	case d.Manifests != nil:
		return v1.MediaTypeImageIndex, nil
	case d.Config != nil:
		return v1.MediaTypeImageManifest, nil
	}
	return "", invalid("neither a Content-Type nor the field mediaType nor a field config or manifests says what this is")
}

// check fails unless the document is whole and no other kind at the same time.
func (d *document) check(index bool) error {
	switch {
	case index && (d.Config != nil || d.Layers != nil):
		return invalid("an index can't have the fields config and layers of an image")
	case index && d.Manifests == nil:
		return invalid("the field manifests is missing (it may be an empty list)")
	case !index && d.Manifests != nil:
		return invalid("an image manifest can't have the field manifests of an index")
	case !index && d.Config == nil:
		return invalid("the field config is missing")
	case d.ArtifactType != "" && !validMediaType(d.ArtifactType):
		return invalid("the field artifactType %q is no media type", clip(d.ArtifactType))
	}
	return d.checkDescriptors()
}

func (d *document) checkDescriptors() error {
	if d.Subject != nil {
		if problem := problemOf(d.Subject); problem != "" {
			return invalid("subject: %s", problem)
		}
	}
	if d.Config != nil {
		if problem := problemOf(d.Config); problem != "" {
			return invalid("config: %s", problem)
		}
	}
	if err := checkList("layers", d.Layers); err != nil {
		return err
	}
	return checkList("manifests", d.Manifests)
}

func checkList(field string, list []v1.Descriptor) error {
	for i := range list {
		if problem := problemOf(&list[i]); problem != "" {
			return invalid("%s[%d]: %s", field, i, problem)
		}
	}
	return nil
}

// manifest makes the one type of a checked document.
func (d *document) manifest(mediaType string) Manifest {
	m := Manifest{
		MediaType:    mediaType,
		ArtifactType: d.ArtifactType,
		Subject:      d.Subject,
		Config:       d.Config,
		Children:     d.Manifests,
		Annotations:  d.Annotations,
	}
	if d.Config == nil {
		return m
	}
	if m.ArtifactType == "" {
		m.ArtifactType = d.Config.MediaType
	}
	m.Blobs = append(make([]v1.Descriptor, 0, 1+len(d.Layers)), *d.Config)
	m.Blobs = append(m.Blobs, d.Layers...)
	return m
}

// clip keeps a client's bad input from filling answers and logs.
func clip(s string) string {
	const most = 160
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
