package s3

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"berth/storage"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

var errState = errors.New("the state of the checkpoint is damaged")

// upload is the State of a checkpoint of a multipart upload, as compact JSON. A checkpoint of a whole object has none.
type upload struct {
	ID string `json:"u"`
	// Checksum is the algorithm of the parts' checksums.
	Checksum string `json:"c,omitempty"`
	// Strays says that there may be other uploads of the same key, begun by requests whose answers were lost.
	Strays bool `json:"s,omitempty"`
	// Shared says that several claims sent parts.
	Shared bool   `json:"m,omitempty"`
	Parts  []part `json:"p"`
}

// part is a part that the server confirmed. A number that is not in the list was given up.
type part struct {
	Number int32  `json:"n"`
	Size   int64  `json:"b"`
	ETag   string `json:"e"`           // without quotes
	Sum    string `json:"x,omitempty"` // the checksum, in base64
}

// parse reads the state of a checkpoint of a multipart upload.
func parse(state []byte) (u upload, err error) {
	if err := json.Unmarshal(state, &u); err != nil {
		return upload{}, fmt.Errorf("%w: %w", errState, err)
	}
	if u.ID == "" || len(u.Parts) == 0 || len(u.Parts) > maxParts {
		return upload{}, errState
	}
	if u.Checksum != "" && u.Checksum != ChecksumCRC32 && u.Checksum != ChecksumSHA256 {
		return upload{}, errState
	}
	var last int32
	var size int64
	for _, p := range u.Parts {
		if p.Number <= last || p.Number > maxParts || p.Size <= 0 || p.Size > maxPart || size > math.MaxInt64-p.Size || p.ETag == "" {
			return upload{}, errState
		}
		last = p.Number
		size += p.Size
	}
	return u, nil
}

// check compares the state with the size of its checkpoint.
func (u upload) check(size int64) error {
	switch have := u.size(); {
	case have < size:
		return fmt.Errorf("%w: its parts have %d bytes of %d", storage.ErrNotFound, have, size)
	case have > size:
		return fmt.Errorf("%w: its parts have %d bytes instead of %d", errState, have, size)
	}
	return nil
}

func (u upload) size() (n int64) {
	for _, p := range u.Parts {
		n += p.Size
	}
	return n
}

// next is the lowest number for another part.
func (u upload) next() int32 {
	if len(u.Parts) == 0 {
		return 1
	}
	return u.Parts[len(u.Parts)-1].Number + 1
}

// extensible says whether other parts may follow: S3 refuses to complete an upload with a small part before the last.
func (u upload) extensible() bool { return u.Parts[len(u.Parts)-1].Size >= minPart }

// completed is the list of parts for the request that completes the upload.
func (u upload) completed() *types.CompletedMultipartUpload {
	list := make([]types.CompletedPart, len(u.Parts))
	for i, p := range u.Parts {
		list[i] = types.CompletedPart{PartNumber: aws.Int32(p.Number), ETag: aws.String(p.ETag)}
		switch {
		case p.Sum == "":
		case u.Checksum == ChecksumSHA256:
			list[i].ChecksumSHA256 = aws.String(p.Sum)
		case u.Checksum == ChecksumCRC32:
			list[i].ChecksumCRC32 = aws.String(p.Sum)
		}
	}
	return &types.CompletedMultipartUpload{Parts: list}
}
