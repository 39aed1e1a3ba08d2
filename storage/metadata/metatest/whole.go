package metatest

import (
	"testing"

	"berth/storage/metadata"
)

// RunWholeObjects checks what a store that was opened with Config.WholeObjects does differently.
func RunWholeObjects(t *testing.T, open Open) {
	for _, test := range (suite{
		{"Restart", testWholeRestart},
		{"GoOn", testWholeGoOn},
		{"Unused", testWholeUnused},
		{"Cancel", testWholeCancel},
		{"Sweep", testWholeSweep},
	}) {
		t.Run(test.name, func(t *testing.T) {
			f := newFixture(t, open, metadata.Config{WholeObjects: true})
			test.run(t, f)
			f.audit(t)
		})
	}
}

// testWholeRestart has a claim begin anew under a key of its own, except the first, before which nobody wrote.
func testWholeRestart(t *testing.T, f *fixture) {
	u := f.start(t, "a")
	first := f.claim(t, u, "")
	if first.Key != u.Key || first.Spare != "" {
		t.Errorf("the first claim has %q and %q, the session began with %q", first.Key, first.Spare, u.Key)
	}
	second := f.claim(t, u, "")
	if second.Key == first.Key || second.Key == "" || second.Spare != "" {
		t.Errorf("the second claim has %q and %q", second.Key, second.Spare)
	}
	f.wantUse(t, first.Key, "dead")
	f.wantUse(t, second.Key, "upload")
}

// testWholeGoOn has a claim go on under its spare key.
func testWholeGoOn(t *testing.T, f *fixture) {
	u := f.claim(t, f.start(t, "a"), "")
	u.Size, u.State = 10, []byte("ten")
	must(t, f.CheckpointUpload(t.Context(), u))
	one := f.claim(t, u, "")
	if one.Key != u.Key || one.Spare == "" {
		t.Fatalf("a claim that goes on has %q and %q", one.Key, one.Spare)
	}
	f.wantUse(t, one.Spare, "upload")
	two := f.claim(t, u, "") // before the first used its spare key, for all that is known
	f.wantUse(t, one.Spare, "dead")
	two.Left, two.Key, two.Spare, two.Size = two.Key, two.Spare, "", 20
	must(t, f.CheckpointUpload(t.Context(), two))
	f.wantUse(t, two.Left, "dead")
	f.wantUse(t, two.Key, "upload")
	three := f.claim(t, u, "")
	if three.Key != two.Key || three.Spare == "" || three.Spare == two.Key || three.Size != 20 {
		t.Errorf("the next claim has %q and %q after %q", three.Key, three.Spare, two.Key)
	}
	three.Left, three.Key, three.Spare = three.Key, three.Spare, ""
	must(t, f.CommitUpload(t.Context(), three, blob(1)))
	f.wantUse(t, three.Left, "dead")
	f.wantUse(t, three.Key, "blob")
}

// testWholeUnused commits without having used the spare key, under which there are no bytes then.
func testWholeUnused(t *testing.T, f *fixture) {
	u := f.claim(t, f.start(t, "a"), "")
	u.Size = blobSize
	must(t, f.CheckpointUpload(t.Context(), u))
	last := f.claim(t, u, "")
	must(t, f.CommitUpload(t.Context(), last, blob(1)))
	f.wantUse(t, last.Key, "blob")
	f.wantUse(t, last.Spare, "")
}

func testWholeCancel(t *testing.T, f *fixture) {
	u := f.claim(t, f.start(t, "a"), "")
	u.Size = 10
	must(t, f.CheckpointUpload(t.Context(), u))
	u = f.claim(t, u, "")
	must(t, f.CancelUpload(t.Context(), "a", u.ID))
	f.wantUse(t, u.Key, "dead")
	f.wantUse(t, u.Spare, "dead")
	if keys, err := f.ClaimDeadKeys(t.Context(), 10); err != nil || len(keys) > 0 {
		t.Errorf("late writers may still write under %v, %v", keys, err)
	}
}

// testWholeSweep deletes a key twice.
func testWholeSweep(t *testing.T, f *fixture) {
	u := f.claim(t, f.start(t, "a"), "")
	must(t, f.CancelUpload(t.Context(), "a", u.ID))
	for range 2 {
		f.exec(t, 1, `UPDATE dead_keys SET delete_after = 0`)
		keys, err := f.ClaimDeadKeys(t.Context(), 10)
		must(t, err)
		wantEqual(t, "keys to delete", keys, []string{u.Key})
		f.wantUse(t, u.Key, "dead")
		must(t, f.ForgetKeys(t.Context(), keys))
		keys, err = f.ClaimDeadKeys(t.Context(), 10)
		must(t, err)
		wantEqual(t, "keys to delete at once again", len(keys), 0)
	}
	f.wantUse(t, u.Key, "")
}
