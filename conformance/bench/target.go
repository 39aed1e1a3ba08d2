package main

import (
	"net/http"
	"time"

	"berth/conformance/client"
	"berth/conformance/server"
)

// target is a registry to measure.
type target struct {
	name, url, ca  string
	user, password string
	token          string         // sent instead of the password, unless it is empty
	pid            int            // 0 when the process is not known
	server         *server.Server // nil when it was not started here
	gateway        bool           // it is no registry, but what is behind some
	locked         *target        // the same registry, where it asks for a password; nil when there is none
}

// client returns a client with a single connection of its own. With offer it offers HTTP/2, and takes what the registry chooses.
func (t *target) client(offer bool) (*client.Client, error) {
	transport, err := server.NewTransport(t.ca)
	if err != nil {
		return nil, err
	}
	c := &client.Client{URL: t.url, User: t.user, Password: t.password, Token: t.token}
	if !offer {
		c.HTTP = &http.Client{Transport: &wire{tls: transport.TLSClientConfig}}
		return c, nil
	}
	transport.MaxConnsPerHost = 1
	transport.Protocols = new(http.Protocols)
	transport.Protocols.SetHTTP1(true)
	transport.Protocols.SetHTTP2(true)
	c.HTTP = &http.Client{Transport: transport}
	return c, nil
}

// cpu returns the processor time that the registry has used so far.
func (t *target) cpu() (time.Duration, error) {
	if t.pid == 0 {
		return 0, nil
	}
	return server.CPU(t.pid)
}
