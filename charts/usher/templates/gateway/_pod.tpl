{{- /* The pod of the gateway, as a template of its StatefulSet or Deployment. */ -}}
{{- define "usher.gateway.pod" -}}
{{- $labels := list . "gateway" -}}
{{- $database := .Values.store.postgresql -}}
{{- $isPostgresql := eq .Values.store.type "PostgreSQL" -}}
metadata:
  labels:
    {{- include "usher.selector" $labels | nindent 4 }}
    {{- with .Values.gateway.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- with .Values.gateway.podAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "usher.gateway.serviceAccount" . | quote }}
  automountServiceAccountToken: true
  terminationGracePeriodSeconds: {{ .Values.gateway.terminationGracePeriodSeconds }}
  {{- include "usher.podSpec" (list . (merge (dict "topologySpreadConstraints" (include "usher.gateway.spread" . | fromYamlArray)) .Values.gateway) "gateway") | nindent 2 }}
  containers:
  - name: gateway
    {{- include "usher.container" (list . .Values.gateway) | nindent 4 }}
    args:
    - usher
    - run
    - --from-cluster
    - --config-namespace={{ include "usher.configurationNamespace" . }}
    - --data=/data
    - --listen=0.0.0.0:8080
    - --admin=0.0.0.0:9090
    - --admin-tokens=/tokens
    - --admin-host={{ include "usher.name" . }}-gateway-admin.{{ .Release.Namespace }}.svc
    - --log-format=json
    - --log-level={{ .Values.gateway.logLevel }}
    {{- range .Values.gateway.trustedProxies }}
    - --trusted-proxies={{ . }}
    {{- end }}
    {{- range .Values.gateway.allowDestinations }}
    - --allow-destination={{ . }}
    {{- end }}
    {{- with .Values.gateway.extraArgs }}{{ toYaml . | nindent 4 }}{{ end }}
    env:
    # The operator makes both Secrets at its first start; until then the pod waits for them.
    - name: USHER_INSTALL_KEY
      valueFrom: {secretKeyRef: {name: usher-install-key, key: install.key}}
    # for people who run `usher` in this pod; the gateway itself has --data
    - {name: USHER_DATA, value: /tokens}
    {{- if $isPostgresql }}
    {{- include "usher.gateway.database" (list $database.secret $database) | nindent 4 }}
    {{- end }}
    {{- with .Values.gateway.extraEnv }}{{ toYaml . | nindent 4 }}{{ end }}
    ports:
    - {name: http, containerPort: 8080}
    - {name: admin, containerPort: 9090}
    # A start may take minutes while it recovers a large store.
    startupProbe: {httpGet: {path: /healthz, port: admin}, periodSeconds: 2, failureThreshold: 300}
    livenessProbe: {httpGet: {path: /healthz, port: admin}, periodSeconds: 10, failureThreshold: 6}
    readinessProbe: {httpGet: {path: /readyz, port: admin}, periodSeconds: 2, failureThreshold: 2}
    # Routes stop sending before the gateway closes its port.
    lifecycle: {preStop: {sleep: {seconds: {{ if $isPostgresql }}{{ .Values.gateway.preStopSeconds }}{{ else }}5{{ end }}}}}
    volumeMounts:
    - {name: data, mountPath: /data}
    - {name: tokens, mountPath: /tokens, readOnly: true}
    - {name: tmp, mountPath: /tmp}
    {{- if and $isPostgresql $database.caSecret.name }}
    - {name: database-ca, mountPath: /database, readOnly: true}
    {{- end }}
    {{- with .Values.gateway.extraVolumeMounts }}{{ toYaml . | nindent 4 }}{{ end }}
  volumes:
  {{- if $isPostgresql }}
  # the cache of the configuration, for a start while the API server is away
  - name: data
    emptyDir: {sizeLimit: 1Gi}
  {{- end }}
  - name: tokens
    secret: {secretName: usher-admin-tokens, defaultMode: 0440}
  - name: tmp
    emptyDir: {sizeLimit: 64Mi}
  {{- if and $isPostgresql $database.caSecret.name }}
  - name: database-ca
    secret:
      secretName: {{ $database.caSecret.name | quote }}
      defaultMode: 0440
      items: [{key: {{ $database.caSecret.key | quote }}, path: ca.crt}]
  {{- end }}
  {{- with .Values.gateway.extraVolumes }}{{ toYaml . | nindent 2 }}{{ end }}
{{- end -}}

{{- /* How pods of the gateway spread; a single one, on SQLite, has nothing to spread from. */ -}}
{{- define "usher.gateway.spread" -}}
{{- if .Values.gateway.topologySpreadConstraints }}
{{- toYaml .Values.gateway.topologySpreadConstraints }}
{{- else if eq .Values.store.type "PostgreSQL" }}
{{- /* `pod-template-hash`: otherwise the pods that an update replaces count too. */ -}}
{{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
- {maxSkew: 1, topologyKey: {{ . }}, whenUnsatisfiable: ScheduleAnyway, matchLabelKeys: [pod-template-hash]}
{{- end }}
{{- end }}
{{- end -}}

{{- /* Environment variables with the address of the database. Argument: [Secret with the address, store.postgresql]. */ -}}
{{- define "usher.gateway.database" -}}
{{- $secret := index . 0 -}}
{{- $database := index . 1 -}}
- name: USHER_STORE
  valueFrom: {secretKeyRef: {name: {{ $secret.name | quote }}, key: {{ $secret.key | quote }}}}
{{- if $database.caSecret.name }}
- {name: PGSSLMODE, value: verify-full}
- {name: PGSSLROOTCERT, value: /database/ca.crt}
{{- end }}
{{- end -}}
