package manifest

import (
	"encoding/json"
	"errors"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	_ "crypto/sha256"
	_ "crypto/sha512"
)

const (
	emptyDigest = `sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a`
	config      = `{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + emptyDigest + `","size":2}`
	layer       = `{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"` + emptyDigest + `","size":2}`
	child       = `{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` + emptyDigest + `","size":2}`
	image       = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":` + config + `,"layers":[` + layer + `]}`
	index       = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[` + child + `]}`
	untyped     = `{"schemaVersion":2,"config":` + config + `,"layers":[]}`
)

// describe512 makes a descriptor of content.
func describe512(mediaType, content string) v1.Descriptor {
	return v1.Descriptor{MediaType: mediaType, Digest: digest.SHA512.FromString(content), Size: int64(len(content))}
}

func TestParseKeepsEverything(t *testing.T) {
	configOf := describe512(v1.MediaTypeImageConfig, "config")
	layerOf := v1.Descriptor{MediaType: v1.MediaTypeImageLayerGzip, Digest: digest.FromString("layer"), Size: 5,
		Data: []byte("layer"), Annotations: map[string]string{"Digest": "", "digest": ""}}
	foreign := v1.Descriptor{MediaType: "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
		Digest: digest.FromString("foreign"), Size: 7, URLs: []string{"https://example.com/foreign"}}
	windows := describe512(v1.MediaTypeImageManifest, "windows")
	windows.Platform = &v1.Platform{Architecture: "arm", OS: "windows", OSVersion: "10.0.14393.1066",
		OSFeatures: []string{"win32k"}, Variant: "v7"}
	windows.ArtifactType = "application/vnd.example"
	nested := v1.Descriptor{MediaType: v1.MediaTypeImageIndex, Digest: digest.FromString("nested"), Size: 6}
	subject := describe512(v1.MediaTypeImageManifest, "subject")
	annotations := map[string]string{"org.example": "yes"}

	for _, test := range []struct {
		name string
		body any
		want Manifest
	}{
		{"image", map[string]any{"schemaVersion": 2, "mediaType": v1.MediaTypeImageManifest, "config": configOf,
			"layers": []v1.Descriptor{layerOf, layerOf, foreign}, "subject": subject, "annotations": annotations, "org.example": "x"},
			Manifest{MediaType: v1.MediaTypeImageManifest, ArtifactType: v1.MediaTypeImageConfig, Subject: &subject,
				Config: &configOf, Blobs: []v1.Descriptor{configOf, layerOf, layerOf, foreign}, Annotations: annotations}},
		{"artifact", map[string]any{"schemaVersion": 2, "config": v1.DescriptorEmptyJSON, "artifactType": "application/vnd.example",
			"layers": []v1.Descriptor{v1.DescriptorEmptyJSON}},
			Manifest{MediaType: v1.MediaTypeImageManifest, ArtifactType: "application/vnd.example", Config: &v1.DescriptorEmptyJSON,
				Blobs: []v1.Descriptor{v1.DescriptorEmptyJSON, v1.DescriptorEmptyJSON}}},
		{"image without layers", map[string]any{"schemaVersion": 2, "config": configOf},
			Manifest{MediaType: v1.MediaTypeImageManifest, ArtifactType: v1.MediaTypeImageConfig, Config: &configOf,
				Blobs: []v1.Descriptor{configOf}}},
		{"index", map[string]any{"schemaVersion": 2, "manifests": []v1.Descriptor{windows, nested}, "subject": subject},
			Manifest{MediaType: v1.MediaTypeImageIndex, Subject: &subject, Children: []v1.Descriptor{windows, nested}}},
		{"artifact index", map[string]any{"schemaVersion": 2, "manifests": []v1.Descriptor{}, "artifactType": "application/vnd.example"},
			Manifest{MediaType: v1.MediaTypeImageIndex, ArtifactType: "application/vnd.example", Children: []v1.Descriptor{}}},
		{"docker manifest", map[string]any{"schemaVersion": 2, "mediaType": MediaTypeDockerManifest, "config": configOf},
			Manifest{MediaType: MediaTypeDockerManifest, ArtifactType: v1.MediaTypeImageConfig, Config: &configOf,
				Blobs: []v1.Descriptor{configOf}}},
		{"docker manifest list", map[string]any{"schemaVersion": 2, "mediaType": MediaTypeDockerManifestList, "manifests": []v1.Descriptor{windows}},
			Manifest{MediaType: MediaTypeDockerManifestList, Children: []v1.Descriptor{windows}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			body, err := json.Marshal(test.body)
			if err != nil {
				t.Fatal(err)
			}
			for _, contentType := range []string{"", test.want.MediaType, test.want.MediaType + "; charset=utf-8", strings.ToUpper(test.want.MediaType)} {
				got, err := Parse(contentType, body)
				if err != nil {
					t.Fatalf("Content-Type %q: %v", contentType, err)
				}
				if !reflect.DeepEqual(got, test.want) {
					t.Errorf("Content-Type %q: got %+v, want %+v", contentType, got, test.want)
				}
			}
		})
	}
}

func TestIsIndex(t *testing.T) {
	for mediaType, want := range map[string]bool{
		v1.MediaTypeImageIndex: true, MediaTypeDockerManifestList: true,
		v1.MediaTypeImageManifest: false, MediaTypeDockerManifest: false,
	} {
		if got := IsIndex(mediaType); got != want {
			t.Errorf("%s: got %t", mediaType, got)
		}
	}
}

// TestParseMemory has lists of very many very small elements, which are refused before they take memory.
func TestParseMemory(t *testing.T) {
	const size = 4 << 20
	for _, element := range []string{"{}", "null", "0", "[]"} {
		for _, field := range []string{"layers", "manifests"} {
			list := strings.Repeat(element+",", size/(len(element)+1)) + element
			body := []byte(`{"schemaVersion":2,"` + field + `":[` + list + `]}`)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := Parse(v1.MediaTypeImageIndex, body)
			runtime.ReadMemStats(&after)
			if err == nil || !strings.Contains(err.Error(), "references more than") {
				t.Errorf("%s of %s: %v", field, element, err)
			}
			if took := after.TotalAlloc - before.TotalAlloc; took > size {
				t.Errorf("%s of %s: %d bytes were allocated", field, element, took)
			}
		}
	}
	schema1 := []byte(`{"schemaVersion":2,"fsLayers":[` + strings.Repeat(`{"":0},`, size/7) + `{}]}`)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := Parse(v1.MediaTypeImageManifest, schema1)
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; err == nil || took > 4*size {
		t.Errorf("schema 1: %d bytes were allocated, %v", took, err)
	}
	most := strings.TrimSuffix(strings.Repeat(child+",", MaxReferences), ",")
	if m, err := Parse("", []byte(strings.Replace(index, child, most, 1))); err != nil || len(m.Children) != MaxReferences {
		t.Errorf("of the most that are allowed: %d, %v", len(m.Children), err)
	}
}

func TestParseRefuses(t *testing.T) {
	replace := strings.NewReplacer
	for _, test := range []struct {
		name, contentType, body, message string
	}{
		{"nothing", "", "", "no JSON document"},
		{"null", "", "null", "schemaVersion is 0"},
		{"array", "", "[]", "JSON array instead of an object"},
		{"trailing bytes", "", image + "{}", "no JSON document"},
		{"byte order mark", "", "\ufeff" + image, "no JSON document"},
		{"not UTF-8", "", replace(`"size":2`, "\"size\":2,\"\xff\":1").Replace(image), "not UTF-8"},
		{"deep", "", `{"a":` + strings.Repeat("[", 1<<20), "no JSON document"},
		{"wrong type", "", replace(`"size":2`, `"size":"2"`).Replace(image), "config.size of the manifest can't be a JSON string"},
		{"bad data", "", replace(`"size":2`, `"size":2,"data":"?"`).Replace(image), "can't be read"},

		{"no schema version", "", `{"config":` + config + `}`, "schemaVersion is 0"},
		{"schema version 3", "", `{"schemaVersion":3,"config":` + config + `}`, "schemaVersion is 3"},
		{"schema 1 by type", "application/vnd.docker.distribution.manifest.v1+prettyjws", image, "skopeo copy"},
		{"schema 1 by version", "", `{"schemaVersion":1,"name":"a","tag":"b","architecture":"amd64","fsLayers":[],"history":[]}`, "skopeo copy"},
		{"schema 1 within schema 2", "", replace(`"size":2`, `"size":2},"fsLayers":[{"blobSum":""}],"x":{"y":2`).Replace(untyped), "skopeo copy"},

		{"unknown content type", "application/json", image, v1.MediaTypeImageManifest + ", " + v1.MediaTypeImageIndex},
		{"unreadable content type", "a/b; c", image, "can't be read"},
		{"unknown media type", "", replace("image.manifest", "artifact.manifest").Replace(image), "artifact.manifest.v1+json\" are not supported"},
		{"contradiction", v1.MediaTypeImageIndex, image, "but the Content-Type is"},
		{"untyped docker manifest", MediaTypeDockerManifest, untyped, "mediaType is missing"},
		{"untyped index as an image", v1.MediaTypeImageManifest, `{"schemaVersion":2,"manifests":[]}`, "can't have the field manifests"},
		{"untyped image as an index", v1.MediaTypeImageIndex, untyped, "can't have the fields config"},
		{"no shape", "", `{"schemaVersion":2}`, "says what this is"},
		{"image and index", "", replace(`"layers"`, `"manifests":[],"layers"`).Replace(image), "can't have the field manifests"},
		{"index and image", "", replace(`"manifests"`, `"config":`+config+`,"manifests"`).Replace(index), "can't have the fields config"},
		{"index with layers", "", replace(`"manifests"`, `"layers":[],"manifests"`).Replace(index), "can't have the fields config"},
		{"no config", "", replace(config, "null").Replace(image), "config is missing"},
		{"no manifests", "", replace("["+child+"]", "null").Replace(index), "manifests is missing"},
		{"bad artifact type", "", replace(`"layers"`, `"artifactType":"x","layers"`).Replace(image), `artifactType "x"`},

		{"duplicate at the top", "", replace(`"layers"`, `"layers":[],"layers"`).Replace(image), `"layers" twice`},
		{"duplicate by escape", "", replace(`"layers"`, `"lay\u0065rs":[],"layers"`).Replace(image), `"layers" twice`},
		{"duplicate in a layer", "", replace(`"size":2`, `"size":1,"size":2`).Replace(image), `"size" twice`},
		{"duplicate annotation", "", replace(`"layers"`, `"annotations":{"a":"1","b":"","a":"2"},"layers"`).Replace(image), `"a" twice`},
		{"duplicate in a custom field", "", replace(`"layers"`, `"x":[1,{"y":{"z":[],"z":1}}],"layers"`).Replace(image), `"z" twice`},
		{"case at the top", "", replace(`"layers"`, `"Layers"`).Replace(image), `"Layers", which has to be spelled "layers"`},
		{"both cases", "", replace(`"layers"`, `"LAYERS":[],"layers"`).Replace(image), `spelled "layers"`},
		{"Unicode case", "", replace(`"layers"`, `"layer\u017f"`).Replace(image), `spelled "layers"`},
		{"case in a child", "", replace(`"size"`, `"Size":3,"size"`).Replace(index), `spelled "size"`},
		{"case in a platform", "", replace(`"size"`, `"platform":{"OS":"linux"},"size"`).Replace(index), `spelled "os"`},

		{"null layer", "", replace(layer, "null").Replace(image), "layers[0]: mediaType"},
		{"no media type", "", replace("application/vnd.oci.image.config.v1+json", "").Replace(image), `config: mediaType ""`},
		{"half a media type", "", replace("application/vnd.oci.image.config.v1+json", "application").Replace(image), `config: mediaType "application"`},
		{"odd media type", "", replace("application/vnd.oci.image.config.v1+json", "a b/c").Replace(image), `config: mediaType "a b/c"`},
		{"control character", "", replace("application/vnd.oci.image.config.v1+json", `a/b;\u0000`).Replace(image), `config: mediaType`},
		{"descriptor's artifact type", "", replace(`"size":2`, `"size":2,"artifactType":"/"`).Replace(index), `manifests[0]: artifactType "/"`},
		{"negative size", "", replace(layer, replace(`:2`, `:-1`).Replace(layer)).Replace(image), "layers[0]: size -1"},
		{"huge size", "", replace(`"size":2`, `"size":9223372036854775808`).Replace(image), "size of the manifest can't be a JSON number"},
		{"fractional size", "", replace(`"size":2`, `"size":2.5`).Replace(image), "size of the manifest can't be a JSON number"},
		{"no digest", "", replace(emptyDigest, "").Replace(image), `config: digest ""`},
		{"upper-case digest", "", replace(":4413", ":4413A", "ff8a", "ff8").Replace(image), "config: digest"},
		{"short digest", "", replace("ff8a", "ff8").Replace(image), "config: digest"},
		{"sha512 with the length of sha256", "", replace("sha256", "sha512").Replace(index), "manifests[0]: digest"},
		{"unknown algorithm", "", replace("sha256", "md5").Replace(index), "manifests[0]: digest"},
		{"subject", "", replace(`"layers"`, `"subject":{},"layers"`).Replace(image), "subject: mediaType"},
		{"platform", "", replace(`"size":2`, `"size":2,"platform":{"os":"li\u0000nux"}`).Replace(index), "manifests[0]: platform"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := Parse(test.contentType, []byte(test.body))
			refused, ok := errors.AsType[*Invalid](err)
			if !ok {
				t.Fatalf("got error %v of type %T", err, err)
			}
			if !strings.Contains(refused.Message, test.message) {
				t.Errorf("got %q, want %q in it", refused.Message, test.message)
			}
			if len(refused.Message) > 1000 {
				t.Errorf("the message has %d bytes", len(refused.Message))
			}
		})
	}
}

func TestParseAccepts(t *testing.T) {
	for name, body := range map[string]string{
		"null lists of the other kind":       strings.Replace(image, `"layers"`, `"manifests":null,"layers"`, 1),
		"annotations named like fields":      strings.Replace(image, `"layers"`, `"annotations":{"Layers":"","layers":"","Size":""},"layers"`, 1),
		"custom object with names of fields": strings.Replace(image, `"layers"`, `"x":{"Layers":1,"digest":[{"OS":2}]},"layers"`, 1),
		"strings that look like structure":   strings.Replace(image, `"layers"`, `"x":"\\\",\"layers\":{[","layers"`, 1),
		"white space":                        "\n\t " + strings.ReplaceAll(image, ",", " ,\r\n ") + "\n",
		"media type with a parameter":        strings.Replace(image, "layer.v1.tar+gzip", `layer.v1.tar+gzip; a=\"b\"`, 1),
		"deep custom field":                  strings.Replace(image, `"layers"`, `"x":`+strings.Repeat("[", 9000)+strings.Repeat("]", 9000)+`,"layers"`, 1),
	} {
		t.Run(name, func(t *testing.T) {
			m, err := Parse("", []byte(body))
			if err != nil {
				t.Fatal(err)
			}
			if len(m.Blobs) != 2 {
				t.Errorf("got %d blobs", len(m.Blobs))
			}
		})
	}
}

func TestNondistributable(t *testing.T) {
	urls := []string{"https://example.com"}
	for _, test := range []struct {
		mediaType string
		urls      []string
		want      bool
	}{
		{"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", urls, true},
		{"application/vnd.docker.image.rootfs.foreign.diff.tar", urls, true},
		{"application/vnd.oci.image.layer.nondistributable.v1.tar", urls, true},
		{"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", urls, true},
		{"application/vnd.oci.image.layer.nondistributable.v1.tar", nil, false},
		{v1.MediaTypeImageLayerGzip, urls, false},
	} {
		if got := Nondistributable(v1.Descriptor{MediaType: test.mediaType, URLs: test.urls}); got != test.want {
			t.Errorf("%s with %d URLs: got %t", test.mediaType, len(test.urls), got)
		}
	}
}
