package metatest

import (
	"errors"
	"testing"
	"time"

	"berth/storage/metadata"
)

func robotTests() suite {
	return suite{
		{"Made", testRobotMade},
		{"Expired", testRobotExpired},
		{"Deleted", testRobotDeleted},
		{"Uses", testRobotUses},
	}
}

// addRobot makes a robot whose secret has its name for a hash.
func (f *fixture) addRobot(t *testing.T, id, name string, lifetime time.Duration) metadata.Robot {
	t.Helper()
	r, err := f.AddRobot(t.Context(), metadata.Robot{ID: id, Name: name, Repositories: []string{"team/**", "x"}, Actions: "pull,push"},
		[]byte(name), lifetime)
	must(t, err)
	return r
}

func testRobotMade(t *testing.T, f *fixture) {
	ci := f.addRobot(t, "1", "ci", time.Hour)
	if ci.CreatedAt.IsZero() || ci.ExpiresAt.Sub(ci.CreatedAt) != time.Hour || !ci.LastUsedAt.IsZero() {
		t.Errorf("made %+v", ci)
	}
	a := f.addRobot(t, "2", "a", 0)
	if !a.ExpiresAt.IsZero() {
		t.Errorf("made %+v", a)
	}
	for _, taken := range []struct{ id, name, hash string }{{"3", "ci", "z"}} {
		if _, err := f.AddRobot(t.Context(), metadata.Robot{ID: taken.id, Name: taken.name}, []byte(taken.hash), 0); !errors.Is(err, metadata.ErrExists) {
			t.Errorf("a second %s: %v", taken.name, err)
		}
	}
	got, err := f.Robot(t.Context(), "1")
	must(t, err)
	wantEqual(t, "by id", got, ci)
	got, err = f.RobotBySecret(t.Context(), []byte("ci"))
	must(t, err)
	wantEqual(t, "by secret", got, ci)
	all, err := f.Robots(t.Context())
	must(t, err)
	wantEqual(t, "list", all, []metadata.Robot{a, ci})
	f.wantNoRobot(t, "3", "z")
}

// wantNoRobot fails if there is one.
func (f *fixture) wantNoRobot(t *testing.T, id, hash string) {
	t.Helper()
	if r, err := f.Robot(t.Context(), id); !errors.Is(err, metadata.ErrNotFound) {
		t.Errorf("by id: %+v, %v", r, err)
	}
	if r, err := f.RobotBySecret(t.Context(), []byte(hash)); !errors.Is(err, metadata.ErrNotFound) {
		t.Errorf("by secret: %+v, %v", r, err)
	}
}

func testRobotExpired(t *testing.T, f *fixture) {
	f.addRobot(t, "1", "ci", time.Hour)
	f.exec(t, 1, `UPDATE robots SET expires_at = created_at - 1`)
	f.wantNoRobot(t, "1", "ci")
	all, err := f.Robots(t.Context())
	must(t, err)
	wantEqual(t, "listed all the same", len(all), 1)
}

func testRobotDeleted(t *testing.T, f *fixture) {
	f.addRobot(t, "1", "ci", 0)
	must(t, f.DeleteRobot(t.Context(), "ci"))
	f.wantNoRobot(t, "1", "ci")
	if err := f.DeleteRobot(t.Context(), "ci"); !errors.Is(err, metadata.ErrNotFound) {
		t.Errorf("deleted twice: %v", err)
	}
	f.addRobot(t, "2", "ci", 0)
	f.wantNoRobot(t, "1", "other")
}

func testRobotUses(t *testing.T, f *fixture) {
	f.addRobot(t, "1", "ci", 0)
	now := time.UnixMilli(time.Now().UnixMilli())
	for _, at := range []time.Time{now, now.Add(-time.Hour)} {
		must(t, f.NoteRobotUses(t.Context(), map[string]time.Time{"1": at, "gone": at}))
		r, err := f.Robot(t.Context(), "1")
		must(t, err)
		wantEqual(t, "last use", r.LastUsedAt, now)
	}
	must(t, f.NoteRobotUses(t.Context(), nil))
}
