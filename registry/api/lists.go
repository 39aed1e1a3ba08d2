package api

import (
	"net/http"
	"net/url"
	"strconv"

	"berth/registry"
)

// maxTagPage is the most tags in one answer.
const maxTagPage = 10_000

// listTags answers tags/list (spec: "Listing Tags").
func (h *handler) listTags(c *call) error {
	page, empty, err := requestedPage(c.r.URL.Query(), maxTagPage)
	if err != nil {
		return err
	}
	tags, more, err := h.Service.Tags(c.r.Context(), c.repository, page)
	if err != nil {
		return err
	}
	tags = finishPage(c, tags, more, empty, page)
	writeJSON(c, http.StatusOK, contentJSON, struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{c.repository, tags})
	return nil
}

// listRepositories answers _catalog, which the spec leaves to history.
func (h *handler) listRepositories(c *call) error {
	page, empty, err := requestedPage(c.r.URL.Query(), h.CatalogMax)
	if err != nil {
		return err
	}
	names, more, err := h.visibleRepositories(c, page)
	if err != nil {
		return err
	}
	names = finishPage(c, names, more, empty, page)
	writeJSON(c, http.StatusOK, contentJSON, struct {
		Repositories []string `json:"repositories"`
	}{names})
	return nil
}

// visibleRepositories returns a page of those that the client sees, and reports whether it sees more.
func (h *handler) visibleRepositories(c *call, page registry.Page) (visible []string, more bool, err error) {
	const lookFurther = 1000 // at a time, where the client does not see all
	for next := (registry.Page{Last: page.Last, N: page.N + 1}); ; next.N = lookFurther {
		names, rest, err := h.Service.Repositories(c.r.Context(), next)
		if err != nil {
			return nil, false, err
		}
		for _, name := range names {
			if !c.client.Sees(name) {
				continue
			}
			if len(visible) == page.N {
				return visible, true, nil
			}
			visible = append(visible, name)
		}
		if !rest {
			return visible, false, nil
		}
		next.Last = names[len(names)-1]
	}
}

// requestedPage reads n and last: at most most entries, which is also what a client gets that does not say. It reports
// whether the client asked for none; the page then has one, because the list itself may not exist.
func requestedPage(query url.Values, most int) (page registry.Page, empty bool, err error) {
	page = registry.Page{Last: query.Get("last"), N: most}
	if !query.Has("n") {
		return page, false, nil
	}
	n, err := strconv.Atoi(query.Get("n"))
	if err != nil || n < 0 {
		return page, false, errPageSize
	}
	page.N = max(min(n, most), 1)
	return page, n == 0, nil
}

// finishPage links to the next page when there is one, and makes the list one that JSON writes as [].
func finishPage(c *call, names []string, more, empty bool, page registry.Page) []string {
	if empty || len(names) == 0 {
		return []string{}
	}
	if more {
		query := url.Values{"n": {strconv.Itoa(page.N)}, "last": {names[len(names)-1]}}
		setNext(c, query)
	}
	return names
}

// setNext links to the page of the same list that a query asks for (RFC 8288).
func setNext(c *call, query url.Values) {
	c.w.Header().Set("Link", "<"+c.r.URL.EscapedPath()+"?"+query.Encode()+`>; rel="next"`)
}
