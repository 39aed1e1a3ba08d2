package s3

import (
	"testing"

	"berth/storage"
	"berth/storage/s3/s3test"
	"berth/storage/storagetest"
)

func BenchmarkStore(b *testing.B) {
	server := s3test.Start(b, s3test.Versity)
	storagetest.Benchmark(b, func(b *testing.B) storage.Blobs {
		s, err := Open(b.Context(), Config{
			AccessKey: s3test.AccessKey, SecretKey: s3test.SecretKey, Bucket: server.Bucket(b), RegionEndpoint: server.URL, ForcePathStyle: true,
		})
		if err != nil {
			b.Fatal(err)
		}
		return s
	})
}
