package backup

import "context"

// Unchecked is Database without looking into the database.
func (in *Reader) Unchecked(ctx context.Context, path string) error { return in.database(ctx, path) }

// End is Restore of a file without blobs.
func (in *Reader) End() error { return in.end() }
