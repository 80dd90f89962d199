//! The claims of the ID tokens of GitLab CI/CD.

use super::text_claims::text_claims;

text_claims! {
    /// A job of GitLab CI/CD. Returned by [`Identity::gitlab`](crate::Identity::gitlab).
    ///
    /// A claim that is missing, empty or of another type than text is absent; it does not affect the other claims. Numbers and
    /// truth values are texts in these tokens, such as `"20"` and `"true"`.
    ///
    /// # Names are recyclable
    ///
    /// Projects, groups and users can be renamed, moved and deleted, and somebody else can then take their path, and with it the
    /// subject (`sub`) of their tokens. Identify a caller by [`project_id`](Self::project_id) or
    /// [`namespace_id`](Self::namespace_id), and use paths for display. An ID is unique within its instance of GitLab only:
    /// projects of two instances have the same IDs, so allow members of one issuer.
    ///
    /// ```
    /// use tower_oidc_guard::Policy;
    ///
    /// let policy = Policy::members_of("https://gitlab.example.com", ["allAuthenticatedUsers"]).require(|caller| {
    ///     let job = caller.gitlab();
    ///     job.is_some_and(|job| job.project_id() == Some("20") && job.is_ref_protected())
    /// });
    /// ```
    pub struct GitLabIdentity {
        /// Returns the ID of the project (`project_id`). In the pipeline of a merge request from a fork, it is that of the fork.
        project_id: "project_id",
        /// Returns the path of the project (`project_path`), such as `my-group/my-project`. It can be reused.
        project_path: "project_path",
        /// Returns the ID of the group or user that the project belongs to (`namespace_id`).
        namespace_id: "namespace_id",
        /// Returns the path of the group or user that the project belongs to (`namespace_path`). It can be reused.
        namespace_path: "namespace_path",
        /// Returns the ID of the project that the job runs in (`job_project_id`). In the pipeline of a merge request from a fork
        /// that runs in the target project, it is that of the target project.
        job_project_id: "job_project_id",
        /// Returns the path of the project that the job runs in (`job_project_path`). It can be reused.
        job_project_path: "job_project_path",
        /// Returns the ID of the group or user of the project that the job runs in (`job_namespace_id`).
        job_namespace_id: "job_namespace_id",
        /// Returns the path of the group or user of the project that the job runs in (`job_namespace_path`). It can be reused.
        job_namespace_path: "job_namespace_path",
        /// Returns the visibility of the project (`project_visibility`): `public`, `internal` or `private`.
        project_visibility: "project_visibility",
        /// Returns the ID of the user that started the job (`user_id`).
        user_id: "user_id",
        /// Returns the name of the user that started the job (`user_login`). It can be changed and reused.
        user_login: "user_login",
        /// Returns the email address of the user that started the job (`user_email`).
        user_email: "user_email",
        /// Returns what started the pipeline (`pipeline_source`), such as `push`, `web` or `merge_request_event`.
        pipeline_source: "pipeline_source",
        /// Returns the ID of the pipeline (`pipeline_id`).
        pipeline_id: "pipeline_id",
        /// Returns the ID of the job (`job_id`).
        job_id: "job_id",
        /// Returns the branch or tag of the job (`ref`), such as `main`, without `refs/heads/`.
        git_ref: "ref",
        /// Returns the type of the ref (`ref_type`): `branch` or `tag`.
        ref_type: "ref_type",
        /// Returns the whole ref (`ref_path`), such as `refs/heads/main`. The pipeline of a merge request has none.
        ref_path: "ref_path",
        /// Returns whether the ref is protected, as text (`ref_protected`): `true` or `false`. See also
        /// [`is_ref_protected`](Self::is_ref_protected).
        ref_protected: "ref_protected",
        /// Returns the commit of the job (`sha`).
        sha: "sha",
        /// Returns the environment that the job deploys to (`environment`).
        environment: "environment",
        /// Returns whether the environment is protected, as text (`environment_protected`): `true` or `false`. See also
        /// [`is_environment_protected`](Self::is_environment_protected).
        environment_protected: "environment_protected",
        /// Returns the tier of the environment (`deployment_tier`), such as `production`.
        deployment_tier: "deployment_tier",
        /// Returns the file with the configuration of the pipeline (`ci_config_ref_uri`), such as
        /// `gitlab.example.com/my-group/my-project//.gitlab-ci.yml@refs/heads/main`.
        ci_config_ref_uri: "ci_config_ref_uri",
        /// Returns the commit of the file with the configuration of the pipeline (`ci_config_sha`).
        ci_config_sha: "ci_config_sha",
        /// Returns where the job runs (`runner_environment`): `gitlab-hosted` or `self-hosted`.
        runner_environment: "runner_environment",
    }
}

impl GitLabIdentity {
    /// Returns whether the branch or tag is protected: whether [`ref_protected`](Self::ref_protected) is `true`.
    pub fn is_ref_protected(&self) -> bool {
        self.ref_protected() == Some("true")
    }

    /// Returns whether the job deploys to a protected environment: whether
    /// [`environment_protected`](Self::environment_protected) is `true`.
    pub fn is_environment_protected(&self) -> bool {
        self.environment_protected() == Some("true")
    }
}
