package access

import (
	"fmt"
	"strings"
)

// Actions is a set of what can be done to a repository.
type Actions uint8

// The actions.
const (
	Pull   Actions = 1 << iota // read manifests, blobs, tags and referrers
	Push                       // upload blobs, put manifests and tags
	Delete                     // delete manifests, tags and blobs
	None   Actions = 0
	All    Actions = Pull | Push | Delete
)

// ParseActions reads names as configurations and scopes have them: pull, push, delete, and * for all of them. Who may push
// may pull: a client looks for what is there before it pushes.
func ParseActions(names []string) (Actions, error) {
	var set Actions
	for _, name := range names {
		one := actionNamed(name)
		if one == None {
			return None, fmt.Errorf("the action %q is unknown: use pull, push, delete or *", name)
		}
		set |= one
	}
	return set.withImplied(), nil
}

func actionNamed(name string) Actions {
	switch name {
	case "pull":
		return Pull
	case "push":
		return Push
	case "delete":
		return Delete
	case "*":
		return All
	}
	return None
}

func (a Actions) withImplied() Actions {
	if a.Has(Push) {
		a |= Pull
	}
	return a
}

// Has reports whether all of b are in a.
func (a Actions) Has(b Actions) bool { return a&b == b }

// Names returns the actions in a fixed order.
func (a Actions) Names() []string {
	names := []string{}
	for _, one := range []Actions{Pull, Push, Delete} {
		if a.Has(one) {
			names = append(names, map[Actions]string{Pull: "pull", Push: "push", Delete: "delete"}[one])
		}
	}
	return names
}

// String returns the names with commas between them, as scopes have them: "pull,push".
func (a Actions) String() string { return strings.Join(a.Names(), ",") }
