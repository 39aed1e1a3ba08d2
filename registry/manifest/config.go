package manifest

import (
	"bytes"
	"encoding/json"
	"time"
)

// Config is what an image config says of its image (OCI image spec, "Image Configuration").
type Config struct {
	OS, Architecture string
	// Variant is of the architecture, as v7 is of arm, or empty.
	Variant string
	// Created is in UTC, and zero when the config says nothing that can be read.
	Created time.Time
}

// ParseConfig reads platform and creation time of an image config. It reports false for anything else that a blob may
// be: an image config is a JSON object with the fields os, architecture and rootfs.
func ParseConfig(body []byte) (Config, bool) {
	// Most blobs are no JSON, and some are large.
	if !bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("{")) {
		return Config{}, false
	}
	var doc struct {
		OS           string    `json:"os"`
		Architecture string    `json:"architecture"`
		Variant      string    `json:"variant"`
		Created      any       `json:"created"`
		RootFS       *struct{} `json:"rootfs"`
	}
	if json.Unmarshal(body, &doc) != nil || doc.RootFS == nil || doc.OS == "" || doc.Architecture == "" {
		return Config{}, false
	}
	if !validPlatformPart(doc.OS) || !validPlatformPart(doc.Architecture) || !validPlatformPart(doc.Variant) {
		return Config{}, false
	}
	return Config{OS: doc.OS, Architecture: doc.Architecture, Variant: doc.Variant, Created: creation(doc.Created)}, true
}

// creation reads a time as RFC 3339 has it, within the years that it can write.
func creation(field any) time.Time {
	text, _ := field.(string)
	t, err := time.Parse(time.RFC3339, text)
	if t = t.UTC(); err != nil || t.Year() < 1 || t.Year() > 9999 {
		return time.Time{}
	}
	return t
}
