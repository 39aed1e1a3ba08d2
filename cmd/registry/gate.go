package main

import (
	"context"
	"errors"
	"net/http"
	"time"

	"berth/auth"
	"berth/auth/access"
	"berth/registry/api"
	"berth/storage/metadata"
)

// apiGate lets package api ask package auth. Neither knows the other.
type apiGate struct{ gate *auth.Gate }

// Admit implements api.Gate.
func (g apiGate) Admit(r *http.Request, from api.Origin) (api.Client, *api.Refusal) {
	c, refusal := g.gate.Admit(r, auth.Origin(from))
	if refusal != nil {
		return nil, (*api.Refusal)(refusal)
	}
	return apiClient{c}, nil
}

// tokens answers requests for tokens.
func (g apiGate) tokens(w http.ResponseWriter, r *http.Request, from api.Origin) {
	g.gate.ServeToken(w, r, auth.Origin(from))
}

type apiClient struct{ *auth.Client }

// actionOf returns what package access calls an action on a repository.
func actionOf(a api.Action) access.Actions {
	switch a {
	case api.Pull:
		return access.Pull
	case api.Push:
		return access.Push
	}
	return access.Delete
}

// May implements api.Client.
func (c apiClient) May(repository string, a api.Action) bool {
	switch a {
	case api.Enter:
		return c.Known()
	case api.List:
		return c.MayList()
	}
	return c.Client.May(repository, actionOf(a))
}

// Judge implements api.Client.
func (c apiClient) Judge(r *http.Request, repository string, a api.Action) *api.Refusal {
	if c.May(repository, a) {
		return nil
	}
	var refusal auth.Refusal
	switch a {
	case api.Enter:
		refusal = c.RefuseBase(r)
	case api.List:
		refusal = c.RefuseList(r)
	default:
		refusal = c.Refuse(r, repository, actionOf(a))
	}
	return (*api.Refusal)(&refusal)
}

// robotFacts lets package auth find robots in the metadata.
type robotFacts struct{ facts *metadata.Store }

// Robot implements auth.Robots.
func (f robotFacts) Robot(ctx context.Context, id string) (*auth.Robot, error) {
	return asRobot(f.facts.Robot(ctx, id))
}

// RobotBySecret implements auth.Robots.
func (f robotFacts) RobotBySecret(ctx context.Context, hash []byte) (*auth.Robot, error) {
	return asRobot(f.facts.RobotBySecret(ctx, hash))
}

// NoteUses implements auth.Robots.
func (f robotFacts) NoteUses(ctx context.Context, uses map[string]time.Time) error {
	return f.facts.NoteRobotUses(ctx, uses)
}

func asRobot(kept metadata.Robot, err error) (*auth.Robot, error) {
	if errors.Is(err, metadata.ErrNotFound) {
		return nil, auth.ErrNoRobot
	}
	if err != nil {
		return nil, err
	}
	return auth.NewRobot(kept.ID, kept.Name, kept.Repositories, kept.Actions)
}
